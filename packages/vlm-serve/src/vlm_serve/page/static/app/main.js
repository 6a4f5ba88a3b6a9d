// Starts the page and connects its parts.

import { openCode } from "../dialogs/code.js";
import { Composer } from "../view/composer.js";
import { byId, element } from "../view/dom.js";
import { listenForFiles } from "../view/drop.js";
import { askForKey } from "../dialogs/key.js";
import { notify, speak } from "../view/notices.js";
import { openSettings } from "../dialogs/settings.js";
import { Sidebar } from "../view/sidebar.js";
import { startThemeButton } from "../view/theme.js";
import { Thread } from "../view/thread.js";
import { Chat } from "./chat.js";
import { Library } from "./library.js";
import { Session } from "./session.js";

const SPOKEN_CHARACTERS = 1000;

const library = new Library();
const session = new Session(askForKey);
const chat = new Chat(library, session);
const composer = new Composer();
const thread = new Thread({
  urlOf: (file) => library.url(library.current, file),
  edit: editQuestion,
  regenerate() {
    byId("thread").focus(); // the button goes away
    chat.regenerate(library.current);
  },
  showCode,
});
const sidebar = new Sidebar(library, {
  startNew() {
    library.startNew();
    composer.focus();
  },
  open: (conversation) => library.open(conversation),
  remove: removeConversation,
  isRunning: (conversation) => chat.isRunning(conversation),
});

library.addEventListener("list", () => sidebar.show());
library.addEventListener("open", () => {
  thread.show(library.current.messages);
  composer.setConversation(library.current);
  composer.setRunning(chat.isRunning(library.current));
});
library.addEventListener("unsaved", ({ detail }) => notify(unsavedText(detail)));
library.addEventListener("damaged", ({ detail }) => notify(`${detail} stored conversations can't be read.`));
chat.addEventListener("grown", ({ detail }) => thread.grow(detail.answer));
chat.addEventListener("state", ({ detail: { answer } }) => {
  thread.update(answer);
  composer.setRunning(chat.isRunning(library.current));
  sidebar.show();
  if (library.current.messages.includes(answer)) speakState(answer);
});
composer.addEventListener("stop", () => stop());
composer.addEventListener("submit", ({ detail }) => ask(detail));
session.addEventListener("models", showModel);
session.addEventListener("failed", ({ detail }) => {
  byId("welcome-text").textContent = "";
  notify(detail.message, { label: "Try again", run: () => session.connect(), stays: true });
});
byId("models").addEventListener("change", ({ target }) => session.choose(session.models[target.selectedIndex]));
byId("open-settings").addEventListener("click", () =>
  openSettings({
    settings: session.settings,
    model: session.model,
    save: (settings) => session.setSettings(settings),
    removeAll,
  }),
);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || document.querySelector("dialog[open]")) return;
  if (sidebar.isOpen) sidebar.close();
  else if (chat.isRunning(library.current)) stop();
  else if (composer.isEditing) composer.cancelEdit();
});
startThemeButton();
const isKept = library.load();
// listeners are there before the first wait: what is dropped early waits, too
listenForFiles((files) => isKept.then(() => composer.attach(files)));
if (!(await isKept)) notify("This browser keeps no conversations: they are lost when the page is closed.");
composer.focus();
session.connect();

function ask({ text, files, replaces }) {
  const conversation = library.current;
  const kept = files.map((file) => library.addFile(file));
  const before = conversation.messages;
  const at = replaces ? before.indexOf(replaces) : -1;
  if (at < 0) {
    chat.ask(conversation, text, kept);
    return;
  }
  chat.ask(conversation, text, kept, at);
  const run = () => chat.restore(conversation, before);
  notify("The question and what followed it were replaced.", { label: "Undo", run });
}

function stop() {
  chat.stop(library.current);
  composer.setRunning(false);
}

async function editQuestion(question) {
  const attachments = [];
  for (const file of question.files) {
    const blob = await library.blob(library.current, file);
    if (blob) attachments.push({ file: { ...file, blob }, url: URL.createObjectURL(blob) });
  }
  composer.edit(question, attachments);
}

function showCode(answer) {
  const { messages } = library.current;
  openCode(session.model, messages.slice(0, messages.indexOf(answer)), session.settings, session.key !== "");
}

async function removeConversation(conversation) {
  chat.stop(conversation);
  const restore = await library.remove(conversation);
  composer.focus();
  notify("The conversation was deleted.", { label: "Undo", run: restore });
}

async function removeAll() {
  const conversations = [...library.conversations];
  const restores = [];
  for (const conversation of conversations) {
    chat.stop(conversation);
    restores.push(await library.remove(conversation));
  }
  const run = async () => {
    for (const restore of restores) await restore();
  };
  notify("All conversations were deleted.", { label: "Undo", run });
}

function showModel() {
  const { model, models } = session;
  document.title = model.name;
  byId("model-name").textContent = model.name;
  byId("model-name").title = model.name;
  byId("model-name").classList.toggle("hidden", models.length > 1);
  byId("models").hidden = models.length < 2;
  const options = models.map(({ name }) => element("option", { selected: name === model.name }, name));
  byId("models").replaceChildren(...options);
  const reads = [model.images && "images", model.videos && "videos"].filter(Boolean).join(" and ");
  const hint = reads ? `Drop, paste or choose ${reads}, and ask about them.` : "Ask in your own words.";
  byId("welcome-text").textContent = hint;
  composer.setModel(model);
}

/** Screen readers hear an answer once, when it is there, not each of its tokens. */
function speakState({ state, text }) {
  if (state === "streaming") speak("Waiting for the answer.");
  else if (state === "stopped") speak("Stopped.");
  else if (state === "failed") speak("");
  else speak(text.slice(0, SPOKEN_CHARACTERS) || "The answer is empty.");
}

function unsavedText(error) {
  const lost = "it is lost when the page is closed";
  if (error?.name !== "QuotaExceededError") return `The browser couldn't store the conversation: ${lost}.`;
  return `The browser's storage is full for this conversation: ${lost}. Delete others to make room.`;
}
