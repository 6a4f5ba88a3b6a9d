// One question or one answer of the thread.

import { statsLine } from "../app/stats.js";
import { MarkdownView } from "../markdown/render.js";
import { copyButton } from "./copy.js";
import { element, iconButton, textButton } from "./dom.js";
import { fileButton } from "./files.js";

/** A question: its files, its text as it was typed, and what can be done with it. */
export class QuestionView {
  #name = element("h2", { class: "hidden" });

  constructor(message, { urlOf, edit }) {
    const files = message.files.map((file) => element("li", {}, fileButton(file, () => urlOf(file))));
    this.element = element(
      "article",
      { class: "question" },
      this.#name,
      files.length ? element("ul", { class: "thumbnails", "aria-label": "Attached files" }, ...files) : null,
      element(
        "div",
        { class: "beside" },
        message.text ? element("p", { class: "bubble", dir: "auto" }, message.text) : null,
        element(
          "div",
          { class: "actions" },
          iconButton("edit", "Edit the question", edit),
          message.text ? copyButton("Copy the question", () => message.text) : null,
        ),
      ),
    );
  }

  setPlace(number) {
    this.#name.textContent = `Question ${number}`;
  }

  update() {}
}

/** An answer: Markdown that may grow, then its state, figures and actions. */
export class AnswerView {
  #message;
  #handlers;
  #markdown;
  #name = element("h2", { class: "hidden" });
  #body = element("div", { class: "markdown" });
  #foot = element("div");
  #isLast = false;

  constructor(message, handlers) {
    this.#message = message;
    this.#handlers = handlers;
    this.#markdown = new MarkdownView(this.#body);
    this.element = element("article", { class: "answer" }, this.#name, this.#body, this.#foot);
    this.grow();
  }

  setPlace(number, isLast) {
    this.#name.textContent = `Answer ${number}`;
    this.#isLast = isLast;
    this.update();
  }

  /** Show the text so far. */
  grow() {
    this.#markdown.update(this.#message.text);
  }

  /** Show the state, which changes once or twice. */
  update() {
    const { state, text } = this.#message;
    const waits = state === "streaming";
    this.element.classList.toggle("waiting", waits && text === "");
    this.element.setAttribute("aria-busy", String(waits));
    this.grow();
    if (waits) this.#foot.replaceChildren(...(text ? [] : [waitingDots()]));
    else this.#foot.replaceChildren(...this.#outcome(), this.#actions());
  }

  #outcome() {
    const { state, error, finish } = this.#message;
    if (state === "failed") return [this.#failure(error)];
    if (state === "stopped") return [element("p", { class: "soft note" }, "Stopped.")];
    if (finish === "length") {
      return [element("p", { class: "soft note" }, "The answer reached the largest number of tokens.")];
    }
    return [];
  }

  #failure(error) {
    const again = this.#isLast ? textButton("Try again", this.#handlers.regenerate) : null;
    return element("div", { class: "failure", role: "alert" }, element("p", {}, error), again);
  }

  #actions() {
    const { text, stats, state } = this.#message;
    const buttons = [
      text ? copyButton("Copy the answer", () => text) : null,
      this.#isLast && state !== "failed" ? iconButton("again", "Answer again", this.#handlers.regenerate) : null,
      iconButton("code", "Show this request as code", this.#handlers.showCode),
    ];
    const line = stats ? statsLine(stats) : "";
    const figures = line ? element("span", { class: "figures soft" }, line) : null;
    return element("div", { class: "actions" }, ...buttons.filter(Boolean), figures);
  }
}

function waitingDots() {
  const dots = [1, 2, 3].map(() => element("i"));
  return element("p", { class: "dots", "aria-label": "Waiting for the answer", role: "img" }, ...dots);
}
