// The question that is being written: text, attached files, and which earlier question it replaces.

import { acceptedTypes, FileError, prepareFile } from "../media/files.js";
import { hasCamera, openCamera } from "../media/camera.js";
import { byId, shortText } from "./dom.js";
import { attachmentItem } from "./files.js";
import { notify } from "./notices.js";

/** Events: `submit` with `detail: {text, files, replaces}`, and `stop`. */
export class Composer extends EventTarget {
  #text = byId("question");
  #model = null;
  #attachments = []; // {file, url}
  #replaces = null; // the question that is edited
  #preparing = Promise.resolve();
  #isRunning = false;
  #drafts = new WeakMap();
  #conversation = null;
  #knowsModel = Promise.withResolvers();

  constructor() {
    super();
    const form = byId("composer");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    this.#text.addEventListener("input", () => this.#show());
    byId("stop").addEventListener("click", () => this.dispatchEvent(new Event("stop")));
    byId("cancel-edit").addEventListener("click", () => this.cancelEdit());
    byId("choose").addEventListener("click", () => byId("file-input").click());
    byId("file-input").addEventListener("change", ({ target }) => {
      this.attach([...target.files]);
      target.value = "";
    });
    byId("camera").addEventListener("click", () => openCamera(this.#model, (file) => this.attach([file])));
    this.#showFiles();
  }

  /** Offer what the model reads. */
  setModel(model) {
    this.#model = model;
    this.#knowsModel.resolve();
    const types = acceptedTypes(model);
    byId("file-input").accept = types;
    byId("choose").hidden = !types;
    byId("choose").setAttribute("aria-label", model.videos ? "Choose images or videos" : "Choose images");
    byId("choose").title = byId("choose").getAttribute("aria-label");
    byId("camera").hidden = !types || !hasCamera();
    this.#show();
  }

  setRunning(isRunning) {
    const hadFocus = document.activeElement === byId("stop");
    this.#isRunning = isRunning;
    this.#show();
    if (hadFocus && !isRunning) this.#text.focus();
  }

  /** Each conversation has a draft of its own while the page is open. */
  setConversation(conversation) {
    if (conversation === this.#conversation) return;
    const draft = this.#drafts.get(conversation) ?? { text: "", attachments: [], replaces: null };
    if (this.#conversation) this.#drafts.set(this.#conversation, this.#draft());
    this.#conversation = conversation;
    this.#set(draft.text, draft.attachments, draft.replaces);
  }

  /** Write `question` anew; `attachments` are its files as `{file, url}`. */
  edit(question, attachments) {
    this.#set(question.text, attachments, question);
    this.focus();
    this.#text.setSelectionRange(question.text.length, question.text.length);
  }

  get isEditing() {
    return this.#replaces !== null;
  }

  cancelEdit() {
    this.#set("", [], null);
    this.focus();
  }

  focus() {
    this.#text.focus();
  }

  /** Add files that were chosen, dropped, pasted or taken. */
  attach(files) {
    const conversation = this.#conversation;
    this.#preparing = this.#preparing.then(async () => {
      await this.#knowsModel.promise;
      for (const file of files) {
        try {
          const prepared = await prepareFile(file, this.#model);
          const isOpen = this.#conversation === conversation;
          const attachments = isOpen ? this.#attachments : this.#drafts.get(conversation).attachments;
          attachments.push({ file: prepared, url: URL.createObjectURL(prepared.blob) });
          this.#showFiles();
        } catch (error) {
          // any other error is told, too: a rejected promise would hold up all later files, and the question
          notify(error instanceof FileError ? error.message : `“${shortText(file.name, 40)}” can't be attached.`);
          if (!(error instanceof FileError)) console.error(error);
        }
      }
    });
  }

  async #submit() {
    if (!this.#model) return;
    await this.#preparing;
    const text = this.#text.value.trim();
    if (this.#isRunning || (!text && !this.#attachments.length)) return;
    const detail = { text, files: this.#attachments.map(({ file }) => file), replaces: this.#replaces };
    for (const { url } of this.#attachments) URL.revokeObjectURL(url);
    this.#set("", [], null);
    this.dispatchEvent(new CustomEvent("submit", { detail }));
  }

  #draft() {
    return { text: this.#text.value, attachments: this.#attachments, replaces: this.#replaces };
  }

  #set(text, attachments, replaces) {
    this.#text.value = text;
    this.#attachments = attachments;
    this.#replaces = replaces;
    this.#showFiles();
  }

  /** Text and buttons; called with every letter. */
  #show() {
    const text = this.#text;
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight}px`;
    byId("editing").hidden = !this.#replaces;
    byId("send").hidden = this.#isRunning;
    byId("stop").hidden = !this.#isRunning;
    byId("send").disabled = !this.#model || (!text.value.trim() && !this.#attachments.length);
  }

  #showFiles() {
    const items = this.#attachments.map((attachment) =>
      attachmentItem(attachment.file, attachment.url, () => this.#remove(attachment)),
    );
    byId("attachments").replaceChildren(...items);
    byId("attachments").hidden = !items.length;
    this.#show();
  }

  #remove(attachment) {
    URL.revokeObjectURL(attachment.url);
    this.#attachments = this.#attachments.filter((other) => other !== attachment);
    this.#showFiles();
    this.focus();
  }
}
