// The open conversation, kept at its end while an answer grows unless the reader has scrolled away.

import { byId } from "./dom.js";
import { AnswerView, QuestionView } from "./message.js";

const NEAR_END = 60;

export class Thread {
  #scroller = byId("thread");
  #list = byId("messages");
  #toEnd = byId("to-end");
  #views = new WeakMap();
  #handlers;
  #grown = new Set();
  #frame = 0;
  #isAtEnd = true;

  /** `handlers`: `urlOf(file)`, `edit(question)`, `regenerate()`, `showCode(answer)`. */
  constructor(handlers) {
    this.#handlers = handlers;
    this.#scroller.addEventListener("scroll", () => this.#noteScroll(), { passive: true });
    this.#toEnd.addEventListener("click", () => this.goToEnd());
    new ResizeObserver(() => this.#follow()).observe(this.#list);
    new ResizeObserver(() => this.#follow()).observe(this.#scroller);
  }

  /** Show these messages; the elements of those shown before are kept. */
  show(messages) {
    const views = messages.map((message) => this.#viewOf(message));
    this.#list.replaceChildren(...views.map((view) => view.element));
    views.forEach((view, i) => view.setPlace(Math.floor(i / 2) + 1, i === messages.length - 1));
    byId("welcome").hidden = messages.length > 0;
    this.goToEnd();
  }

  /** The text of `answer` has grown; it is shown with the next frame. */
  grow(answer) {
    this.#grown.add(answer);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      for (const message of this.#grown) {
        const view = this.#views.get(message);
        if (!view) continue;
        view.grow();
        if (view.element.classList.contains("waiting")) view.update();
      }
      this.#grown.clear();
    });
  }

  /** The state of `answer` has changed. */
  update(answer) {
    this.#views.get(answer)?.update();
  }

  goToEnd() {
    this.#isAtEnd = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#noteScroll();
  }

  #viewOf(message) {
    const known = this.#views.get(message);
    if (known) return known;
    const { urlOf, edit, regenerate, showCode } = this.#handlers;
    const view =
      message.role === "user"
        ? new QuestionView(message, { urlOf, edit: () => edit(message) })
        : new AnswerView(message, { regenerate, showCode: () => showCode(message) });
    this.#views.set(message, view);
    return view;
  }

  #noteScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END;
    this.#toEnd.hidden = this.#isAtEnd;
  }

  #follow() {
    if (this.#isAtEnd) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    else this.#noteScroll();
  }
}
