// Sampling settings: their limits, what a text field means, and where they are kept.

import { preference, setPreference } from "../storage/preferences.js";

/** Fields of a request in the order of the form; an empty field leaves the choice to the server. */
export const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, hint: "0 always takes the likeliest token." },
  { name: "top_p", label: "Top p", min: 0, max: 1, above: true, hint: "Leaves out unlikely tokens; 1 for none." },
  { name: "top_k", label: "Top k", min: 0, whole: true, hint: "That many likeliest tokens; 0 for all." },
  { name: "max_tokens", label: "Max tokens", min: 1, whole: true, hint: "Where an answer is cut." },
  { name: "seed", label: "Seed", min: 0, max: 2 ** 31 - 1, whole: true, hint: "The same seed, the same answer." },
];

export const DEFAULTS = { temperature: 0.2 };

/** The number that `text` means to a field, or undefined if it is empty. Raises an `Error` for the user. */
export function fieldValue({ label, min, max, above, whole }, text) {
  if (text.trim() === "") return undefined;
  const value = Number(text.trim().replace(",", "."));
  if (!Number.isFinite(value)) throw new Error(`${label} is a number.`);
  if (whole && !Number.isSafeInteger(value)) throw new Error(`${label} is a whole number.`);
  if (above ? value <= min : value < min) throw new Error(`${label} is ${above ? "above" : "at least"} ${min}.`);
  if (max !== undefined && value > max) throw new Error(`${label} is at most ${max}.`);
  return value;
}

/** The settings kept in this browser; what a field no longer allows is left out. */
export function loadSettings() {
  let kept;
  try {
    kept = Object(JSON.parse(preference("settings") ?? "null") ?? DEFAULTS);
  } catch {
    kept = DEFAULTS;
  }
  const settings = {};
  for (const field of FIELDS) {
    try {
      const value = fieldValue(field, String(kept[field.name] ?? ""));
      if (value !== undefined) settings[field.name] = value;
    } catch {
      // an older page allowed it
    }
  }
  if (typeof kept.system === "string" && kept.system) settings.system = kept.system;
  return settings;
}

export function saveSettings(settings) {
  setPreference("settings", JSON.stringify(settings));
}
