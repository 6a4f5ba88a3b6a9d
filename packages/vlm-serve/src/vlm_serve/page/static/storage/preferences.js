// Small values that outlive the page: settings, theme, model, API key. Without storage they last as long as the page.

const PREFIX = "vlm-serve.";
const memory = new Map();

function read(storage, name) {
  try {
    return window[storage].getItem(PREFIX + name);
  } catch {
    return null;
  }
}

function write(storage, name, text) {
  try {
    if (text === null) window[storage].removeItem(PREFIX + name);
    else window[storage].setItem(PREFIX + name, text);
    return true;
  } catch {
    return false;
  }
}

/** A stored text, or null. */
export function preference(name) {
  return memory.get(name) ?? read("localStorage", name);
}

/** Keep a text, or forget it if null. */
export function setPreference(name, text) {
  memory.set(name, text);
  write("localStorage", name, text);
}

/** The API key, kept until the tab is closed unless it is to be remembered. */
export function apiKey() {
  return memory.get("key") ?? read("sessionStorage", "key") ?? read("localStorage", "key") ?? "";
}

export function keyIsRemembered() {
  return read("localStorage", "key") !== null;
}

export function setApiKey(key, remember) {
  memory.set("key", key);
  write("sessionStorage", "key", remember || !key ? null : key);
  write("localStorage", "key", remember && key ? key : null);
}
