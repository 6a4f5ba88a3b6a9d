// Server-sent events of a response body, as the HTML standard defines them; only their data is wanted here.

const MAX_PENDING = 32 * 1024 * 1024;

/** The data of each event of `body`, a stream of bytes, as text. An event that the end cuts is dropped. */
export async function* eventData(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  let data = [];
  let afterReturn = false; // a line feed that follows in the next piece belongs to the same end of line
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      pending += afterReturn && value.startsWith("\n") ? value.slice(1) : value;
      afterReturn = value.endsWith("\r");
      if (pending.length > MAX_PENDING) throw new Error("an event of the stream is too long");
      const lines = pending.split(/\r\n|\n|\r/);
      pending = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
