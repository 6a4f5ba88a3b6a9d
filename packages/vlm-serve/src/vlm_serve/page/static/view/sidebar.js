// The list of conversations: open, rename, delete. On narrow screens it lies over the page.

import { byId, element, iconButton } from "./dom.js";

export class Sidebar {
  #library;
  #handlers;
  #renamed = null;

  /** `handlers`: `startNew()`, `open(conversation)`, `remove(conversation)`, `isRunning(conversation)`. */
  constructor(library, handlers) {
    this.#library = library;
    this.#handlers = handlers;
    byId("new-chat").addEventListener("click", () => {
      this.close();
      handlers.startNew();
    });
    byId("open-sidebar").addEventListener("click", () => this.#setOpen(true));
    byId("close-sidebar").addEventListener("click", () => this.close());
    byId("backdrop").addEventListener("click", () => this.close());
    matchMedia("(min-width: 800px)").addEventListener("change", () => this.close());
  }

  get isOpen() {
    return document.body.classList.contains("sidebar-open");
  }

  close() {
    if (!this.isOpen) return;
    this.#setOpen(false);
    byId("open-sidebar").focus();
  }

  show() {
    if (this.#renamed) return; // the field that is being typed into stays
    const { conversations } = this.#library;
    byId("conversations").replaceChildren(...conversations.map((conversation) => this.#item(conversation)));
    byId("no-conversations").hidden = conversations.length > 0;
  }

  #setOpen(isOpen) {
    document.body.classList.toggle("sidebar-open", isOpen);
    byId("open-sidebar").setAttribute("aria-expanded", String(isOpen));
    byId("content").inert = isOpen;
    byId("backdrop").hidden = !isOpen;
    if (isOpen) byId("close-sidebar").focus();
  }

  #item(conversation) {
    const isCurrent = conversation === this.#library.current;
    const open = () => {
      this.close();
      this.#handlers.open(conversation);
    };
    const running = this.#handlers.isRunning(conversation) ? element("span", { class: "running", role: "img", "aria-label": "is answered" }) : null;
    const attributes = { type: "button", class: "title", title: conversation.title, dir: "auto", "aria-current": isCurrent ? "true" : null };
    const item = element(
      "li",
      { class: isCurrent ? "current" : null },
      element("button", { ...attributes, on: { click: open } }, element("span", {}, conversation.title), running),
      iconButton("edit", `Rename ${conversation.title}`, () => this.#rename(conversation, item)),
      iconButton("trash", `Delete ${conversation.title}`, () => this.#handlers.remove(conversation)),
    );
    return item;
  }

  #rename(conversation, item) {
    const field = element("input", { class: "field", "aria-label": "Title of the conversation", maxlength: "60", value: conversation.title });
    const finish = (isKept) => {
      if (this.#renamed !== field) return;
      this.#renamed = null;
      if (isKept) this.#library.rename(conversation, field.value);
      this.show();
      const index = this.#library.conversations.indexOf(conversation);
      byId("conversations").children[index]?.querySelector(".title").focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) finish(true);
      if (event.key !== "Escape") return;
      event.stopPropagation();
      finish(false);
    });
    field.addEventListener("blur", () => finish(true));
    this.#renamed = field;
    item.replaceChildren(field);
    field.select();
  }
}
