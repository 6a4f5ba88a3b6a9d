// Attached files as thumbnails, in the composer and in questions, and one file in full.

import { element, icon, iconButton, shortText } from "./dom.js";
import { openDialog } from "../dialogs/dialog.js";

/** A file beside the question that is being written. */
export function attachmentItem(file, url, onRemove) {
  const name = shortText(file.name, 40);
  return element(
    "li",
    { class: "attachment", title: name },
    picture(file, url, name),
    iconButton("close", `Remove ${name}`, onRemove, { class: "icon-button remove" }),
  );
}

/** A file of a question; `urlOf()` resolves to its address, or to undefined if the browser has lost it. */
export function fileButton(file, urlOf) {
  const name = shortText(file.name, 40);
  const button = element("button", { type: "button", class: "thumbnail", "aria-label": `Show ${name}`, title: name });
  urlOf().then((url) => {
    if (url) {
      button.append(picture(file, url, ""));
      button.addEventListener("click", () => showFile(file, url, name));
    } else {
      button.append(element("span", { class: "lost" }, "lost"));
      button.setAttribute("aria-label", `${name} is lost`);
      button.disabled = true;
    }
  });
  return button;
}

function picture(file, url, alt) {
  if (file.kind === "image") return element("img", { src: url, alt, decoding: "async" });
  return element("span", { class: "film", role: alt ? "img" : null, "aria-label": alt || null }, icon("film"));
}

function showFile(file, url, name) {
  const content =
    file.kind === "image"
      ? element("img", { src: url, alt: name })
      : element("video", { src: url, controls: true, "aria-label": name });
  openDialog(name, [element("div", { class: "full" }, content)], undefined, { class: "viewer" });
}
