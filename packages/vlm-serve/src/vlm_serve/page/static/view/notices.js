// Short messages at the edge of the page, and text for screen readers alone.

import { byId, element, iconButton, textButton } from "./dom.js";

const SHOWN_FOR = 9000;

/**
 * Show `text`, with a button if `action` is `{label, run}`; it stays while the pointer or the focus is on it, and with
 * `action.stays` until it is closed.
 */
export function notify(text, action = null) {
  const close = () => {
    clearTimeout(timer);
    notice.remove();
  };
  const act = () => {
    close();
    action.run();
  };
  const notice = element(
    "div",
    { class: "notice" },
    element("span", {}, text),
    action && textButton(action.label, act, { class: "link" }),
    iconButton("close", "Close the message", close),
  );
  let timer = 0;
  const wait = () => {
    clearTimeout(timer);
    if (!action?.stays) timer = setTimeout(close, SHOWN_FOR);
  };
  for (const type of ["pointerenter", "focusin"]) notice.addEventListener(type, () => clearTimeout(timer));
  for (const type of ["pointerleave", "focusout"]) notice.addEventListener(type, wait);
  const same = [...byId("notices").children].find((other) => other.firstChild.textContent === text);
  same?.remove();
  byId("notices").append(notice);
  wait();
}

/** Said by screen readers, not shown. */
export function speak(text) {
  byId("spoken").textContent = text;
}
