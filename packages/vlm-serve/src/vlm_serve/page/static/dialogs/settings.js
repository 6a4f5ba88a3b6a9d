// The form of the settings: sampling, system prompt, theme, API key, storage.

import { DEFAULTS, FIELDS, fieldValue } from "../app/settings.js";
import { apiKey, keyIsRemembered, setApiKey } from "../storage/preferences.js";
import { openDialog } from "./dialog.js";
import { element, textButton } from "../view/dom.js";
import { setTheme, theme } from "../view/theme.js";

/** Show the form; `save(settings)` gets what is valid, `removeAll()` deletes the conversations. */
export function openSettings({ settings, model, save, removeAll }) {
  const fields = FIELDS.map((field) => numberField(field, settings[field.name]));
  const system = systemField(settings.system ?? "", model);
  const key = keyFields();
  const themes = themeField();
  const submit = (event) => {
    event.preventDefault();
    const wrong = fields.filter((field) => !field.check());
    if (wrong.length) {
      wrong[0].input.focus();
      return;
    }
    const entries = fields.map((field) => [field.name, field.value()]).filter(([, value]) => value !== undefined);
    const text = system.input.value.trim();
    key.save();
    save({ ...Object.fromEntries(entries), ...(text ? { system: text } : {}) });
    setTheme(themes.input.value);
    dialog.close();
  };
  const reset = () => {
    for (const field of fields) field.set(DEFAULTS[field.name]);
    system.input.value = "";
  };
  const rows = fields.map((field) => field.row);
  const form = element(
    "form",
    { novalidate: true, class: "settings", on: { submit } },
    element("fieldset", {}, element("legend", {}, "Sampling"), element("div", { class: "grid" }, ...rows)),
    element("p", { class: "soft" }, "An empty field leaves the choice to the server."),
    system.row,
    themes.row,
    key.row,
    storageRow(() => {
      dialog.close();
      removeAll();
    }),
    element(
      "div",
      { class: "dialog-row" },
      textButton("Defaults", reset),
      element("span", { class: "space" }),
      element("button", { type: "submit", class: "button primary" }, "Save"),
    ),
  );
  const dialog = openDialog("Settings", [form]);
  fields[0].input.focus();
}

function numberField(field, value) {
  const id = `setting-${field.name}`;
  const error = element("span", { class: "error", id: `${id}-error` });
  const input = element("input", {
    id,
    class: "field",
    inputmode: field.whole ? "numeric" : "decimal",
    autocomplete: "off",
    "aria-describedby": `${id}-hint ${id}-error`,
  });
  const check = () => {
    try {
      fieldValue(field, input.value);
      error.textContent = "";
    } catch (reason) {
      error.textContent = reason.message;
    }
    const isRight = !error.textContent;
    input.setAttribute("aria-invalid", String(!isRight));
    return isRight;
  };
  const set = (number) => {
    input.value = number ?? "";
    check();
  };
  input.addEventListener("change", check);
  set(value);
  const hint = element("span", { class: "soft hint", id: `${id}-hint` }, field.hint);
  const row = element("div", { class: "row" }, element("label", { for: id }, field.label), input, hint, error);
  return { name: field.name, row, input, check, set, value: () => fieldValue(field, input.value) };
}

function systemField(text, model) {
  const allowed = model?.system !== false;
  const id = "setting-system";
  const described = { "aria-describedby": "system-hint" };
  const input = element("textarea", { id, class: "field", rows: "3", disabled: !allowed, ...described });
  input.value = text;
  const note = allowed ? "Sent before every conversation." : "The template of this model has no place for it.";
  const hint = element("span", { class: "soft hint", id: "system-hint" }, note);
  const row = element("div", { class: "row" }, element("label", { for: id }, "System prompt"), input, hint);
  return { row, input };
}

function themeField() {
  const names = { system: "As the system", light: "Light", dark: "Dark" };
  const options = Object.entries(names).map(([value, label]) =>
    element("option", { value, selected: value === theme() }, label),
  );
  const input = element("select", { id: "setting-theme", class: "field" }, ...options);
  return { row: element("div", { class: "row" }, element("label", { for: "setting-theme" }, "Theme"), input), input };
}

/** The key and whether it outlives the tab; `error` describes the field if it is given. */
export function keyFields() {
  const plain = { autocomplete: "off", spellcheck: "false" };
  const input = element("input", { id: "setting-key", type: "password", class: "field", ...plain });
  const remember = element("input", { id: "remember-key", type: "checkbox", checked: keyIsRemembered() });
  input.value = apiKey();
  const row = element(
    "div",
    { class: "row" },
    element("label", { for: "setting-key" }, "API key"),
    input,
    element("label", { class: "check", for: "remember-key" }, remember, "Remember it in this browser"),
  );
  return { row, input, remember, save: () => setApiKey(input.value.trim(), remember.checked) };
}

function storageRow(removeAll) {
  const text = element("span", { class: "soft" }, "Conversations are kept in this browser.");
  navigator.storage?.estimate?.().then(({ usage = 0 }) => {
    text.textContent = `Conversations are kept in this browser: ${(usage / 1e6).toFixed(1)} MB.`;
  });
  const button = textButton("Delete all conversations", removeAll, { class: "button danger" });
  return element("div", { class: "row storage" }, text, button);
}
