// Elements are built by these functions alone: text is always text, and no string becomes HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element with attributes, listeners under `on`, and children: nodes or text; null children are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [type, listener] of Object.entries(value)) made.addEventListener(type, listener);
    } else if (value === true) {
      made.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      made.setAttribute(name, value);
    }
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** One of the symbols in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows an icon alone; `label` is its name and its tooltip. */
export function iconButton(name, label, onClick, attributes = {}) {
  const options = { type: "button", class: "icon-button", "aria-label": label, title: label };
  return element("button", { ...options, ...attributes, on: { click: onClick } }, icon(name));
}

/** A button that shows its name. */
export function textButton(label, onClick, attributes = {}) {
  return element("button", { type: "button", class: "button", ...attributes, on: { click: onClick } }, label);
}

/** Text of another origin as one line for labels; without control characters, and cut where it is long. */
export function shortText(text, limit = 60) {
  const line = String(text).replace(/[\p{Cc}\s\u200e\u200f\u2028-\u202e\u2066-\u2069]+/gu, " ").trim();
  const characters = [...line];
  return characters.length > limit ? `${characters.slice(0, limit - 1).join("").trimEnd()}…` : line;
}
