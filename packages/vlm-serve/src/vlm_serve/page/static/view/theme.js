// Light, dark, or as the system is.

import { byId, icon } from "./dom.js";
import { preference, setPreference } from "../storage/preferences.js";

const darkSystem = matchMedia("(prefers-color-scheme: dark)");

/** `light`, `dark` or `system`. */
export function theme() {
  return preference("theme") ?? "system";
}

export function setTheme(name) {
  setPreference("theme", name === "system" ? null : name);
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  showButton();
}

/** The button in the header changes to the other of light and dark. */
export function startThemeButton() {
  byId("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
  darkSystem.addEventListener("change", showButton);
  showButton();
}

function isDark() {
  return theme() === "system" ? darkSystem.matches : theme() === "dark";
}

function showButton() {
  const button = byId("theme");
  const label = isDark() ? "Light theme" : "Dark theme";
  button.replaceChildren(icon(isDark() ? "sun" : "moon"));
  button.setAttribute("aria-label", label);
  button.title = label;
}
