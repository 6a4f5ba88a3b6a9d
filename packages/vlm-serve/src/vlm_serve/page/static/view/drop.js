// Files that are dropped anywhere on the page or pasted into it.

import { byId } from "./dom.js";

export function listenForFiles(attach) {
  const target = byId("drop-target");
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  let inside = 0; // enter and leave come for each element under the pointer
  const show = (count) => {
    inside = Math.max(0, count);
    target.hidden = inside === 0;
  };
  window.addEventListener("dragenter", (event) => hasFiles(event) && show(inside + 1));
  window.addEventListener("dragleave", (event) => hasFiles(event) && show(inside - 1));
  window.addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault(); // or else the browser would leave the page to show the file
  });
  window.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(0);
    attach([...event.dataTransfer.files]);
  });
  window.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    attach(files);
  });
}
