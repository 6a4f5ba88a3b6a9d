// The request of an answer as a call that can be pasted into a terminal or a Python file.

import { API } from "./client.js";
import { chatBody } from "./messages.js";

/** The same request for `curl`, in the shell's own quoting; files are read by name from the current folder. */
export async function curlCall(model, messages, settings, withKey) {
  const { body, marks } = await markedBody(model, messages, settings);
  let json = JSON.stringify(body, null, 2).replace(/[\\$`]/g, "\\$&");
  for (const [mark, file] of marks) {
    const quoted = `'./${file.name.replaceAll("'", "'\\''")}'`;
    json = json.replace(mark, () => `data:${file.type};base64,$(base64 < ${quoted} | tr -d '\\n')`);
  }
  const key = withKey ? ' \\\n  -H "Authorization: Bearer $VLM_API_KEY"' : "";
  const address = shellQuoted(`${API}chat/completions`);
  return `curl ${address} \\\n  -H "Content-Type: application/json"${key} \\\n  -d @- <<JSON\n${json}\nJSON\n`;
}

/** The same request for the Python package `openai`. */
export async function pythonCall(model, messages, settings, withKey) {
  const { body, marks } = await markedBody(model, messages, settings);
  const { top_k, ...standard } = body;
  const named = Object.entries(standard).map(([name, value]) => `    ${name}=${literal(value, 4)},\n`);
  if (top_k !== undefined) named.push(`    extra_body={"top_k": ${top_k}},\n`);
  let call = `answer = client.chat.completions.create(\n${named.join("")})\n`;
  for (const [mark, file] of marks) {
    call = call.replace(literal(mark), () => `data_url(${literal(file.name)}, ${literal(file.type)})`);
  }
  const imports = [marks.size && "import base64", withKey && "import os", marks.size && "from pathlib import Path"];
  const key = withKey ? 'os.environ["VLM_API_KEY"]' : '"none"';
  const lines = [
    ...imports.filter(Boolean),
    ...(marks.size || withKey ? [""] : []),
    "from openai import OpenAI",
    "",
    ...(marks.size ? DATA_URL : []),
    `client = OpenAI(base_url=${literal(API)}, api_key=${key})`,
  ];
  return `${lines.join("\n")}\n${call}print(answer.choices[0].message.content)\n`;
}

const DATA_URL = [
  "",
  "def data_url(name: str, content_type: str) -> str:",
  "    content = base64.b64encode(Path(name).read_bytes()).decode()",
  '    return f"data:{content_type};base64,{content}"',
  "",
  "",
];

/** The request's body with a mark, which occurs nowhere else, in place of each file's address. */
async function markedBody(model, messages, settings) {
  const random = crypto.getRandomValues(new Uint32Array(4)).join("-");
  const marks = new Map();
  const body = await chatBody(model, messages, settings, (file) => {
    const mark = `file-${marks.size}-${random}-`;
    marks.set(mark, file);
    return mark;
  });
  return { body, marks };
}

/** JSON of strings, numbers, lists and objects is Python, too; long values get a line for each entry. */
function literal(value, indent = 0) {
  return JSON.stringify(value, null, 4).replaceAll("\n", `\n${" ".repeat(indent)}`);
}

function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
