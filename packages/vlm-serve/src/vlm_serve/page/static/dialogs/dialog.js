// Modal dialogs on the browser's own element, which holds the focus and closes on Escape.

import { byId, element, iconButton } from "../view/dom.js";

let lastId = 0;

/** Show a dialog with a title; `onClose` is called once, however it is closed. Returns the element. */
export function openDialog(title, content, onClose = () => {}, attributes = {}) {
  lastId += 1;
  const id = `dialog-title-${lastId}`;
  const opener = document.activeElement;
  const head = element(
    "div",
    { class: "dialog-head" },
    element("h2", { id }, title),
    iconButton("close", "Close", () => dialog.close()),
  );
  const dialog = element("dialog", { "aria-labelledby": id, ...attributes }, head, ...content);
  dialog.addEventListener("close", () => {
    dialog.remove();
    onClose();
    if (opener?.isConnected) opener.focus();
    else byId("question").focus();
  });
  dialog.addEventListener("mousedown", (event) => {
    if (event.target === dialog) dialog.close(); // the backdrop
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
