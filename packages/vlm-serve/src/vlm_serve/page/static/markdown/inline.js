// Markdown inside a block: emphasis, code, links. Text goes into text nodes, and links lead to safe protocols only.

import { element } from "../view/dom.js";

const MAX_DEPTH = 8;
const PROTOCOLS = new Set(["http:", "https:", "mailto:"]);
const SPECIAL = /[\\`*_~[!<\n]|https?:\/\//g;
const ADDRESS = "[^\\s<>\"`\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]{1,2000}"; // without marks of direction
const ANGLE_ADDRESS = new RegExp(`^<([a-z]+:${ADDRESS})>`, "i");
const BARE_ADDRESS = new RegExp(`^${ADDRESS}`);
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const MARKS = { "**": "strong", "__": "strong", "*": "em", "_": "em", "~~": "del" };

/** The address as it will be opened, or null unless it is absolute and of a safe protocol. */
function safeUrl(address) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  return PROTOCOLS.has(url.protocol) ? url.href : null;
}

/** Append `text`, one block's, to `parent`. */
export function appendInline(parent, text, depth = 0, inLink = false) {
  new InlineReader(text, depth, inLink).appendTo(parent);
}

class InlineReader {
  constructor(text, depth, inLink) {
    this.text = text;
    this.depth = depth;
    this.inLink = inLink;
    this.brackets = matchingBrackets(text);
    this.unclosed = new Set(); // marks known to have no end in the rest of the text: each is looked for once
  }

  appendTo(parent) {
    let at = 0;
    let plain = "";
    while (at < this.text.length) {
      SPECIAL.lastIndex = at;
      const special = SPECIAL.exec(this.text);
      const stop = special ? special.index : this.text.length;
      plain += this.text.slice(at, stop);
      at = stop;
      if (!special) break;
      const { node, literal, end } = this.read(at);
      if (node) {
        if (plain) parent.append(plain);
        plain = "";
        parent.append(node);
      } else {
        plain += literal;
      }
      at = end;
    }
    if (plain) parent.append(plain);
  }

  /** What starts at `at`: a node, or literal characters. */
  read(at) {
    const character = this.text[at];
    if (character === "\\") return this.readEscape(at);
    if (character === "\n") return { node: element("br"), end: at + 1 };
    if (character === "`") return this.readCode(at);
    if (character === "[" || character === "!") return this.readLink(at);
    if (character === "<") return this.readAngle(at);
    if (character === "h") return this.readAddress(at);
    return this.readEmphasis(at);
  }

  readEscape(at) {
    const next = this.text[at + 1];
    if (next !== undefined && PUNCTUATION.test(next)) return { literal: next, end: at + 2 };
    return { literal: "\\", end: at + 1 };
  }

  readCode(at) {
    const mark = runAt(this.text, at);
    const start = at + mark.length;
    const close = this.unclosed.has(mark) ? -1 : findRun(this.text, mark, start);
    if (close < 0) {
      this.unclosed.add(mark);
      return { literal: mark, end: start };
    }
    let code = this.text.slice(start, close).replaceAll("\n", " ");
    if (/^ .*[^ ].* $/.test(code)) code = code.slice(1, -1);
    return { node: element("code", {}, code), end: close + mark.length };
  }

  readEmphasis(at) {
    const run = runAt(this.text, at);
    const mark = run.slice(0, 2) in MARKS ? run.slice(0, 2) : run[0];
    const start = at + mark.length;
    const opens = mark in MARKS && this.depth < MAX_DEPTH && !this.unclosed.has(mark) && this.canOpen(at, run);
    const close = opens ? this.findClose(mark, start) : -1;
    if (close < 0) {
      if (opens) this.unclosed.add(mark);
      return { literal: run, end: at + run.length };
    }
    const node = element(MARKS[mark]);
    appendInline(node, this.text.slice(start, close), this.depth + 1, this.inLink);
    return { node, end: close + mark.length };
  }

  canOpen(at, run) {
    const after = this.text[at + run.length];
    if (after === undefined || /\s/.test(after)) return false;
    return run[0] !== "_" || at === 0 || !isWord(this.text[at - 1]);
  }

  /** Where `mark` ends the emphasis that starts at `start`; code and escapes are passed over. */
  findClose(mark, start) {
    const { text } = this;
    let at = start;
    while (at < text.length) {
      const character = text[at];
      if (character === "\\") {
        at += 2;
        continue;
      }
      if (character !== "`" && character !== mark[0]) {
        at += 1;
        continue;
      }
      const run = runAt(text, at);
      const end = at + run.length;
      if (character === "`") {
        const close = this.unclosed.has(run) ? -1 : findRun(text, run, end);
        if (close < 0) this.unclosed.add(run);
        at = close < 0 ? end : close + run.length;
        continue;
      }
      const fits = run.length === mark.length || run.length > 2;
      const isEnd = at > start && !/\s/.test(text[at - 1]) && !(mark[0] === "_" && isWord(text[end]));
      if (fits && isEnd) return end - mark.length;
      at = end;
    }
    return -1;
  }

  /** `[label](address "title")`, and images as links: the page loads nothing that a model names. */
  readLink(at) {
    const isImage = this.text[at] === "!";
    const open = isImage ? at + 1 : at;
    const close = this.text[open] === "[" ? this.brackets.get(open) : undefined;
    const literal = { literal: this.text[at], end: at + 1 };
    if (close === undefined || this.text[close + 1] !== "(" || this.inLink || this.depth >= MAX_DEPTH) return literal;
    const target = /\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+(?:"[^"\n]*"|'[^'\n]*'))?\s*\)/y;
    target.lastIndex = close + 1;
    const match = target.exec(this.text.slice(0, close + 4096));
    const url = match && safeUrl(match[1]);
    if (!url) return literal;
    const node = anchor(url);
    appendInline(node, this.text.slice(open + 1, close) || url, this.depth + 1, true);
    return { node, end: close + 1 + match[0].length };
  }

  /** `<https://…>`; any other `<` is text. */
  readAngle(at) {
    const match = ANGLE_ADDRESS.exec(this.text.slice(at, at + 2010));
    const url = match && !this.inLink && safeUrl(match[1]);
    if (!url) return { literal: "<", end: at + 1 };
    return { node: anchor(url, match[1]), end: at + match[0].length };
  }

  /** A bare address, without the punctuation that ends a sentence. */
  readAddress(at) {
    const [found] = BARE_ADDRESS.exec(this.text.slice(at, at + 2000));
    let address = found.replace(/[.,:;!?'*_~\]]+$/, "");
    while (address.endsWith(")") && !address.includes("(")) address = address.slice(0, -1);
    const url = this.inLink || (at > 0 && isWord(this.text[at - 1])) ? null : safeUrl(address);
    if (!url) return { literal: this.text[at], end: at + 1 };
    return { node: anchor(url, address), end: at + address.length };
  }
}

/** A link in a tab of its own; its title is the address, whatever its text says. */
function anchor(url, text = "") {
  return element("a", { href: url, title: url, target: "_blank", rel: "noopener noreferrer nofollow" }, text);
}

function isWord(character) {
  return character !== undefined && /[\p{L}\p{N}]/u.test(character);
}

/** The run of one character that starts at `at`. */
function runAt(text, at) {
  let end = at + 1;
  while (text[end] === text[at]) end += 1;
  return text.slice(at, end);
}

/** Where a run that equals `mark`, and is no part of a longer one, starts; -1 if nowhere. */
function findRun(text, mark, start) {
  let at = text.indexOf(mark, start);
  while (at >= 0) {
    const run = runAt(text, at);
    if (run.length === mark.length) return at;
    at = text.indexOf(mark, at + run.length);
  }
  return -1;
}

/** Position of each `[` with its `]`, in one pass. */
function matchingBrackets(text) {
  const pairs = new Map();
  const open = [];
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "[") open.push(at);
    else if (text[at] === "]" && open.length) pairs.set(open.pop(), at);
  }
  return pairs;
}
