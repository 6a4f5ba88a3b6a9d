// What requests need beside the conversation: the chosen model, the settings and the API key.

import { listModels } from "../api/client.js";
import { apiKey, preference, setApiKey, setPreference } from "../storage/preferences.js";
import { loadSettings, saveSettings } from "./settings.js";

/** Events: `models` (the list or the choice), `failed` (the list can't be had, with the error). */
export class Session extends EventTarget {
  models = [];
  model = null;
  settings = loadSettings();
  #askKey;
  #asked = null;

  /** `askKey(message)` shows a dialog and resolves to `{key, remember}`, or null if it was cancelled. */
  constructor(askKey) {
    super();
    this.#askKey = askKey;
  }

  get key() {
    return apiKey();
  }

  /** Read the list of models; a server that wants a key gets one from the user. */
  async connect() {
    try {
      this.models = await listModels(this.key);
      if (!this.models.length) throw new Error("The server has no model.");
    } catch (error) {
      if (error.status === 401 && (await this.requestKey(error.message))) return this.connect();
      this.dispatchEvent(new CustomEvent("failed", { detail: error }));
      return;
    }
    const last = preference("model");
    this.choose(this.models.find((model) => model.name === last) ?? this.models[0]);
  }

  choose(model) {
    this.model = model;
    if (this.models.length > 1) setPreference("model", model.name);
    this.dispatchEvent(new Event("models"));
  }

  setSettings(settings) {
    this.settings = settings;
    saveSettings(settings);
    if (!this.model) this.connect(); // a key may have been entered, too
  }

  /** Ask the user for a key, once for all requests that wait for it; false if there is none. */
  requestKey(message) {
    this.#asked ??= this.#askKey(message).then((answer) => {
      this.#asked = null;
      if (answer) setApiKey(answer.key, answer.remember);
      return answer !== null;
    });
    return this.#asked;
  }
}
