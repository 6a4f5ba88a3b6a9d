// Copying to the clipboard, also on pages without HTTPS, where browsers hide the clipboard's API.

import { element, icon } from "./dom.js";
import { speak } from "./notices.js";

/** Copy `text`; false if the browser refuses. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const before = document.activeElement;
  const area = element("textarea", { class: "hidden", "aria-hidden": "true", readonly: true });
  area.value = text;
  (before?.closest("dialog") ?? document.body).append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  before?.focus();
  return copied;
}

/** A button that copies what `textOf()` gives, and says for a moment whether it did. */
export function copyButton(label, textOf, shownLabel = "") {
  const text = element("span", {}, shownLabel);
  const classes = shownLabel ? "button" : "icon-button";
  const named = { "aria-label": label, title: label };
  const button = element("button", { type: "button", class: classes, ...named }, icon("copy"), text);
  let timer = 0;
  button.addEventListener("click", async () => {
    const copied = await copyText(textOf());
    button.classList.toggle("copied", copied);
    text.textContent = copied ? "Copied" : "Not copied";
    button.setAttribute("aria-label", text.textContent);
    speak(text.textContent);
    clearTimeout(timer);
    timer = setTimeout(() => {
      text.textContent = shownLabel;
      button.classList.remove("copied");
      button.setAttribute("aria-label", label);
    }, 1500);
  });
  return button;
}
