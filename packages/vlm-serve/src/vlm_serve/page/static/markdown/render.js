// Blocks as elements, and a renderer for text that grows: blocks that didn't change keep their elements.

import { appendInline } from "./inline.js";
import { parseBlocks } from "./blocks.js";
import { element, shortText } from "../view/dom.js";
import { copyButton } from "../view/copy.js";

/** Shows Markdown in `container`; `update` may be called with ever longer texts. */
export class MarkdownView {
  #container;
  #shown = [];

  constructor(container) {
    this.#container = container;
  }

  /** Show `text` instead of what was shown. */
  update(text) {
    const blocks = parseBlocks(text.replace(/\r\n?/g, "\n").split("\n"));
    blocks.forEach((block, i) => {
      const before = this.#shown[i];
      if (before?.block.source === block.source && before.block.type === block.type) return;
      if (before && isGrownCode(before.block, block)) {
        before.node.querySelector("code").firstChild.data = block.text;
        this.#shown[i] = { block, node: before.node };
        return;
      }
      const node = renderBlock(block);
      if (before) before.node.replaceWith(node);
      else this.#container.append(node);
      this.#shown[i] = { block, node };
    });
    for (const { node } of this.#shown.splice(blocks.length)) node.remove();
  }
}

/** Code keeps its element while it grows, and so its scroll position and what is selected. */
function isGrownCode(before, block) {
  return before.type === "code" && block.type === "code" && before.language === block.language;
}

function renderBlock(block) {
  switch (block.type) {
    case "heading":
      // the page has h1 for itself and h2 for its parts
      return directed(withInline(element(`h${Math.min(block.level + 2, 6)}`), block.text));
    case "rule":
      return element("hr");
    case "code":
      return renderCode(block);
    case "quote":
      return element("blockquote", {}, ...block.blocks.map(renderBlock));
    case "list":
      return renderList(block);
    case "table":
      return renderTable(block);
    default:
      return directed(withInline(element("p"), block.text));
  }
}

function withInline(parent, text) {
  appendInline(parent, text);
  return parent;
}

/** `node`, in the direction of its text; set once it is complete, since the browser looks for it at each change. */
function directed(node) {
  node.dir = "auto";
  return node;
}

function renderCode({ language, text }) {
  const code = element("code", {}, document.createTextNode(text));
  const name = shortText(language, 30) || "text";
  return element(
    "div",
    { class: "code" },
    element("div", { class: "code-head" }, element("span", {}, name), copyButton("Copy code", () => code.textContent)),
    element("pre", { tabindex: "0", role: "region", "aria-label": `Code, ${name}`, dir: "ltr" }, code),
  );
}

function renderList({ ordered, start, tight, items }) {
  const list = element(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? String(start) : null });
  for (const blocks of items) {
    const item = element("li");
    for (const block of blocks) {
      if (tight && block.type === "paragraph") appendInline(item, block.text);
      else item.append(renderBlock(block));
    }
    list.append(directed(item));
  }
  return list;
}

function renderTable({ head, aligns, rows }) {
  const row = (cells, tag, attributes) =>
    element("tr", {}, ...cells.map((cell, i) => withInline(element(tag, { ...attributes, class: aligns[i] }), cell)));
  const table = element(
    "table",
    {},
    element("thead", {}, row(head, "th", { scope: "col" })),
    element("tbody", {}, ...rows.map((cells) => row(cells, "td", {}))),
  );
  return element("div", { class: "wide-table", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}
