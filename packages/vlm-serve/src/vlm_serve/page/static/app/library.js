// The conversations of this browser: what is in memory, what is stored, and which one is open.
//
// A conversation is `{id, title, created, updated, messages}`; a question `{role, text, files}`, its files
// `{id, name, kind, type}`; an answer `{role, text, state, error, model, finish, stats}`, where `state` is
// streaming, complete, stopped or failed.

import { newId } from "../media/files.js";
import { openDatabase } from "../storage/database.js";
import { shortText } from "../view/dom.js";

const TITLE_LENGTH = 60;

/**
 * Events: `list` (titles, order), `open` (another conversation, or other messages), `unsaved` (with an error),
 * `damaged` (with the number of stored conversations that can't be read).
 */
export class Library extends EventTarget {
  conversations = [];
  current = null;
  /** Ids of the conversations that this tab is answering. */
  answering = new Set();
  #database = null;
  #blobs = new Map();
  #urls = new Map();
  #tabs = "BroadcastChannel" in window ? new BroadcastChannel("vlm-serve") : null;

  constructor() {
    super();
    if (this.#tabs) this.#tabs.onmessage = ({ data }) => this.#reload(data);
  }

  /** Read what is stored and open an empty conversation; false if this browser stores nothing. */
  async load() {
    this.#database = await openDatabase();
    const stored = await this.#database.all().catch((error) => {
      this.dispatchEvent(new CustomEvent("unsaved", { detail: error }));
      return [];
    });
    this.conversations = stored.filter(isReadable);
    const damaged = stored.length - this.conversations.length;
    if (damaged) this.dispatchEvent(new CustomEvent("damaged", { detail: damaged }));
    for (const conversation of this.conversations) markInterrupted(conversation);
    this.#sort();
    this.startNew();
    return this.#database.kept;
  }

  /** An empty conversation is listed and stored with its first question. */
  startNew() {
    const now = Date.now();
    this.open({ id: newId(), title: "", created: now, updated: now, messages: [] });
  }

  open(conversation) {
    this.current = conversation;
    this.#emit("open");
    this.#emit("list");
  }

  /** Replace the messages, of which the last may be new, and store the conversation. */
  setMessages(conversation, messages) {
    conversation.messages = messages;
    conversation.updated = Date.now();
    const first = messages[0];
    conversation.title ||= shortText(first.text || first.files[0].name, TITLE_LENGTH);
    if (!this.conversations.includes(conversation)) this.conversations.push(conversation);
    this.#sort();
    if (this.current === conversation) this.#emit("open");
    this.#emit("list");
    return this.save(conversation);
  }

  rename(conversation, title) {
    conversation.title = shortText(title, TITLE_LENGTH) || conversation.title;
    this.#emit("list");
    return this.save(conversation);
  }

  /** Delete at once; what the returned function brings back is held in memory. */
  async remove(conversation) {
    const files = conversation.messages.flatMap((message) => message.files ?? []);
    await Promise.all(files.map((file) => this.blob(conversation, file)));
    this.conversations = this.conversations.filter((other) => other !== conversation);
    if (this.current === conversation) this.startNew();
    else this.#emit("list");
    await this.#store(() => this.#database.remove(conversation.id), conversation.id);
    return () => {
      this.conversations.push(conversation);
      this.#sort();
      this.open(conversation);
      return this.save(conversation);
    };
  }

  /** Store a conversation unless it was deleted meanwhile. A failure is told by the event `unsaved`. */
  save(conversation) {
    if (!this.conversations.includes(conversation)) return Promise.resolve();
    return this.#store(() => this.#database.save(conversation, this.#blobs), conversation.id);
  }

  /** Hold the bytes of an attachment; returns what a message keeps of it. */
  addFile({ blob, ...file }) {
    this.#blobs.set(file.id, blob);
    return file;
  }

  /** The bytes of a conversation's file, or undefined if the browser has lost them. */
  async blob(conversation, { id }) {
    if (!this.#blobs.has(id)) {
      const stored = await this.#database.file(conversation.id, id).catch(() => undefined);
      if (stored) this.#blobs.set(id, stored);
    }
    return this.#blobs.get(id);
  }

  /** An address of the file for this page, or undefined. */
  async url(conversation, file) {
    const blob = await this.blob(conversation, file);
    if (blob && !this.#urls.has(file.id)) this.#urls.set(file.id, URL.createObjectURL(blob));
    return this.#urls.get(file.id);
  }

  async #store(write, id) {
    try {
      await write();
      this.#tabs?.postMessage(id);
    } catch (error) {
      this.dispatchEvent(new CustomEvent("unsaved", { detail: error }));
    }
  }

  /** Another tab has changed or deleted a conversation; one that is being answered here stays as it is. */
  async #reload(id) {
    if (this.answering.has(id) || !this.#database) return;
    const value = await this.#database.get(id);
    const stored = isReadable(value) ? value : null;
    const known = this.conversations.find((conversation) => conversation.id === id);
    if (!stored) {
      this.conversations = this.conversations.filter((conversation) => conversation !== known);
      if (known && this.current === known) this.startNew();
    } else if (known) {
      Object.assign(known, stored);
      if (this.current === known) this.#emit("open");
    } else {
      this.conversations.push(stored);
    }
    this.#sort();
    this.#emit("list");
  }

  #sort() {
    this.conversations.sort((a, b) => b.updated - a.updated);
  }

  #emit(type) {
    this.dispatchEvent(new Event(type));
  }
}

/** Whether a stored value is a conversation as this page keeps it: an error of a later part would end the page. */
function isReadable(value) {
  const { id, title, updated, messages } = Object(value);
  if (typeof id !== "string" || typeof title !== "string" || !Number.isFinite(updated)) return false;
  return Array.isArray(messages) && messages.length > 0 && messages.every(isReadableMessage);
}

/** Questions and answers take turns, a question first. */
function isReadableMessage(message, number) {
  const { role, text, files } = Object(message);
  if (role !== (number % 2 ? "assistant" : "user") || typeof text !== "string") return false;
  return role === "assistant" || (Array.isArray(files) && files.every((file) => typeof file?.id === "string"));
}

/** An answer that was being streamed when the page was closed. */
function markInterrupted(conversation) {
  const last = conversation.messages.at(-1);
  if (last?.state !== "streaming") return;
  last.state = "failed";
  last.error = "The page was closed before the answer was complete.";
}
