// A conversation as the messages of a request.

/**
 * Body of a request for the next answer to `messages`, whose last one is a question.
 *
 * A question whose answer failed or was stopped before its first word is left out: many templates allow no two
 * questions in a row. `urlOf(file)` gives the address that stands for a file.
 */
export async function chatBody(model, messages, settings, urlOf) {
  const { system, ...sampling } = settings;
  const head = system && model.system ? [{ role: "system", content: system }] : [];
  const sent = await Promise.all(answered(messages).map((message) => apiMessage(message, urlOf)));
  return { model: model.name, messages: [...head, ...sent], ...sampling };
}

/** The questions that have an answer, with their answers, and the last question. */
function answered(messages) {
  return messages.filter((message, i) => {
    if (message.role === "assistant") return message.text !== "";
    return i === messages.length - 1 || messages[i + 1].text !== "";
  });
}

/** Files stand before the text, as in the conversations that LLaVA-like models are trained on. */
async function apiMessage({ role, text, files = [] }, urlOf) {
  if (!files.length) return { role, content: text };
  const parts = await Promise.all(
    files.map(async (file) => {
      const type = file.kind === "video" ? "video_url" : "image_url";
      return { type, [type]: { url: await urlOf(file) } };
    }),
  );
  return { role, content: text ? [...parts, { type: "text", text }] : parts };
}
