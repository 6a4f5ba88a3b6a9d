// Questions and their answers: ask, stop, answer again, ask otherwise. Conversations are answered side by side.

import { ApiError, streamChat } from "../api/client.js";
import { chatBody } from "../api/messages.js";
import { dataUrl } from "../media/files.js";
import { AnswerStats } from "./stats.js";

const SAVE_INTERVAL = 2000;

/** Events, each with `detail.conversation`: `grown` (an answer's text), `state` (an answer began or ended). */
export class Chat extends EventTarget {
  #library;
  #session;
  #running = new Map();

  /** `session` gives `model`, `key` and `settings`, and `requestKey(message)` if the server wants another key. */
  constructor(library, session) {
    super();
    this.#library = library;
    this.#session = session;
  }

  isRunning(conversation) {
    return this.#running.has(conversation?.id);
  }

  /** Ask a question, in place of the messages from `at` on; by default after all of them. */
  ask(conversation, text, files, at = conversation.messages.length) {
    this.stop(conversation);
    const question = { role: "user", text, files };
    return this.#answer(conversation, [...conversation.messages.slice(0, at), question]);
  }

  /** Another answer to the last question. */
  regenerate(conversation) {
    this.stop(conversation);
    const count = conversation.messages.findLastIndex((message) => message.role === "user") + 1;
    return this.#answer(conversation, conversation.messages.slice(0, count));
  }

  /** Messages as they were before an edit. */
  restore(conversation, messages) {
    this.stop(conversation);
    return this.#library.setMessages(conversation, messages);
  }

  stop(conversation) {
    this.#running.get(conversation.id)?.abort();
    this.#setRunning(conversation, null);
  }

  #setRunning({ id }, controller) {
    if (controller) this.#running.set(id, controller);
    else this.#running.delete(id);
    this.#library.answering = new Set(this.#running.keys());
  }

  async #answer(conversation, messages) {
    const answer = { role: "assistant", text: "", state: "streaming", model: this.#session.model.name };
    const controller = new AbortController();
    this.#setRunning(conversation, controller);
    this.#library.setMessages(conversation, [...messages, answer]);
    this.#emit("state", conversation, answer);
    const timer = setInterval(() => this.#library.save(conversation), SAVE_INTERVAL);
    try {
      await this.#stream(conversation, messages, answer, controller.signal);
      answer.state = "complete";
    } catch (error) {
      answer.state = controller.signal.aborted ? "stopped" : "failed";
      if (answer.state === "failed") this.#fail(conversation, answer, error);
    } finally {
      clearInterval(timer);
      if (this.#running.get(conversation.id) === controller) this.#setRunning(conversation, null);
    }
    this.#emit("state", conversation, answer);
    await this.#library.save(conversation);
  }

  async #stream(conversation, messages, answer, signal) {
    const { model, key, settings } = this.#session;
    const urlOf = (file) => this.#fileUrl(conversation, file);
    const body = await chatBody(model, messages, settings, urlOf);
    const stats = new AnswerStats();
    const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
    for await (const chunk of streamChat(streamed, key, signal)) {
      signal.throwIfAborted();
      const choice = chunk.choices?.[0];
      const text = choice?.delta?.content ?? "";
      stats.add(text, chunk.usage);
      answer.text += text;
      answer.stats = stats.values;
      answer.finish = choice?.finish_reason ?? answer.finish;
      if (text) this.#emit("grown", conversation, answer);
    }
  }

  async #fileUrl(conversation, file) {
    const blob = await this.#library.blob(conversation, file);
    if (!blob) throw new ApiError("A file of this conversation is lost: edit the question and attach it again.");
    return dataUrl(blob);
  }

  /** A refused key is asked for, and the question is answered with the new one. */
  async #fail(conversation, answer, error) {
    if (!(error instanceof ApiError)) console.error(error);
    answer.error = error.message;
    if (error.status !== 401) return;
    const entered = await this.#session.requestKey(error.message);
    if (entered && conversation.messages.at(-1) === answer) this.regenerate(conversation);
  }

  #emit(type, conversation, answer) {
    this.dispatchEvent(new CustomEvent(type, { detail: { conversation, answer } }));
  }
}
