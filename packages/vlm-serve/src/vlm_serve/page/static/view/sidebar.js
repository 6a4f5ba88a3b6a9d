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
    const focused = document.activeElement.closest("#conversations button");
    const id = focused?.parentElement.dataset.id;
    const place = focused ? [...focused.parentElement.children].indexOf(focused) : 0;
    byId("conversations").replaceChildren(...conversations.map((conversation) => this.#item(conversation)));
    byId("no-conversations").hidden = conversations.length > 0;
    if (focused) this.#focus(id, place);
  }

  #setOpen(isOpen) {
    document.body.classList.toggle("sidebar-open", isOpen);
    byId("open-sidebar").setAttribute("aria-expanded", String(isOpen));
    byId("content").inert = isOpen;
    byId("backdrop").hidden = !isOpen;
    if (isOpen) byId("close-sidebar").focus();
  }

  /** Focus a button of a conversation by its place in the row. */
  #focus(id, place) {
    const item = [...byId("conversations").children].find((other) => other.dataset.id === id);
    item?.children[place]?.focus();
  }

  #item(conversation) {
    const isCurrent = conversation === this.#library.current;
    const open = () => {
      this.close();
      this.#handlers.open(conversation);
    };
    const running = element("span", { class: "running", role: "img", "aria-label": "is being answered" });
    const attributes = {
      type: "button",
      class: "title",
      title: conversation.title,
      dir: "auto",
      "aria-current": isCurrent ? "true" : null,
      on: { click: open },
    };
    const item = element(
      "li",
      { class: isCurrent ? "current" : null, "data-id": conversation.id },
      element(
        "button",
        attributes,
        element("span", {}, conversation.title),
        this.#handlers.isRunning(conversation) ? running : null,
      ),
      iconButton("edit", `Rename ${conversation.title}`, () => this.#rename(conversation, item)),
      iconButton("trash", `Delete ${conversation.title}`, () => this.#handlers.remove(conversation)),
    );
    return item;
  }

  #rename(conversation, item) {
    const label = "Title of the conversation";
    const field = element("input", { class: "field", "aria-label": label, maxlength: "60", value: conversation.title });
    const finish = (isKept) => {
      if (this.#renamed !== field) return;
      this.#renamed = null;
      if (isKept) this.#library.rename(conversation, field.value);
      this.show();
      this.#focus(conversation.id, 0);
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.preventDefault(); // the title gets the focus, and must not be pressed by the same key
      event.stopPropagation();
      finish(event.key === "Enter");
    });
    field.addEventListener("blur", () => finish(true));
    this.#renamed = field;
    item.replaceChildren(field);
    field.select();
  }
}
