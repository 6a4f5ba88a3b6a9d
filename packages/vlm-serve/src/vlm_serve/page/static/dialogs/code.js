// Shows the request of an answer as a call that can be copied.

import { curlCall, pythonCall } from "../api/code.js";
import { copyButton } from "../view/copy.js";
import { openDialog } from "./dialog.js";
import { element } from "../view/dom.js";

const LANGUAGES = { curl: curlCall, Python: pythonCall };

/** `messages` end with the question whose answer is wanted. */
export async function openCode(model, messages, settings, withKey) {
  const code = element("code");
  const choices = element("div", { class: "choices", role: "group", "aria-label": "Language" });
  for (const [name, call] of Object.entries(LANGUAGES)) {
    const text = await call(model, messages, settings, withKey);
    const show = () => {
      code.textContent = text;
      for (const other of choices.children) other.setAttribute("aria-pressed", String(other === button));
    };
    const button = element("button", { type: "button", class: "button", on: { click: show } }, name);
    choices.append(button);
  }
  const hasFiles = messages.some((message) => message.files?.length);
  const notes = [
    hasFiles && "Files are read by their names from the current folder.",
    withKey && "The key is read from the variable VLM_API_KEY.",
  ];
  const note = element("p", { class: "soft" }, notes.filter(Boolean).join(" "));
  const copy = copyButton("Copy the call", () => code.textContent, "Copy");
  const row = element("div", { class: "dialog-row" }, choices, element("span", { class: "space" }), copy);
  const area = element("pre", { class: "call", tabindex: "0", role: "region", "aria-label": "Call" }, code);
  openDialog("This request as code", [row, area, note], undefined, { class: "wide" });
  choices.firstElementChild.click();
  choices.firstElementChild.focus();
}
