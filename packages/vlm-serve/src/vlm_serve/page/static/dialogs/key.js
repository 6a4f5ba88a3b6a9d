// Asks for an API key when the server wants one.

import { openDialog } from "./dialog.js";
import { element } from "../view/dom.js";
import { keyFields } from "./settings.js";

/** Resolves to `{key, remember}`, or null if the dialog is closed; `message` is what the server says. */
export function askForKey(message) {
  return new Promise((resolve) => {
    let answer = null;
    const { row, input, remember } = keyFields();
    const submit = (event) => {
      event.preventDefault();
      const key = input.value.trim();
      if (!key) return input.focus();
      answer = { key, remember: remember.checked };
      return dialog.close();
    };
    const use = element("button", { type: "submit", class: "button primary" }, "Use this key");
    const form = element(
      "form",
      { class: "settings", on: { submit } },
      element("p", { id: "key-message" }, message),
      row,
      element("div", { class: "dialog-row" }, element("span", { class: "space" }), use),
    );
    const title = "The server wants an API key";
    const dialog = openDialog(title, [form], () => resolve(answer), { "aria-describedby": "key-message" });
    input.select();
  });
}
