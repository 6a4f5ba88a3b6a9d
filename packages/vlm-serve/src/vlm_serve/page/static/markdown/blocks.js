// Markdown's blocks: lines of text to a list of plain objects. Every step moves forward, so the work is linear.

const MAX_DEPTH = 8;
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)(.*)$/s;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:[ \t]+|$)/;

const isBlank = (line) => line.trim() === "";

/** Blocks of `lines`, each with its `source`: equal sources make equal blocks. */
export function parseBlocks(lines, depth = 0) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const { block, end } = readBlock(lines, at, depth);
    block.source = lines.slice(at, end).join("\n");
    blocks.push(block);
    at = end;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  let match = FENCE.exec(line);
  if (match) return readFence(lines, at, match);
  match = HEADING.exec(line);
  if (match) {
    const text = match[2].trim().replace(/(?:^|[ \t])#+$/, "").trim();
    return { block: { type: "heading", level: match[1].length, text }, end: at + 1 };
  }
  if (RULE.test(line)) return { block: { type: "rule" }, end: at + 1 };
  if (depth < MAX_DEPTH) {
    if (QUOTE.test(line)) return readQuote(lines, at, depth);
    if (ITEM.test(line)) return readList(lines, at, depth);
  }
  if (startsTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at, depth);
}

/** Code up to a fence as long as the first; while an answer is streamed, up to the end. */
function readFence(lines, at, [, mark, info]) {
  let end = at + 1;
  const closes = (line) => {
    const trimmed = line.trim();
    return trimmed.length >= mark.length && trimmed === mark[0].repeat(trimmed.length);
  };
  while (end < lines.length && !closes(lines[end])) end += 1;
  const block = { type: "code", language: info.trim().split(/\s/)[0], text: lines.slice(at + 1, end).join("\n") };
  return { block, end: Math.min(end + 1, lines.length) };
}

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { block: { type: "quote", blocks: parseBlocks(inner, depth + 1) }, end };
}

/** Items of one kind of mark; lines indented by two or more, or to the item's text, belong to the item. */
function readList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const kind = first[2].at(-1);
  const items = [];
  let tight = true;
  let end = at;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (!match || match[2].at(-1) !== kind || RULE.test(lines[end])) break;
    if (match[1].length > first[1].length + 1 || match[1].length + 1 < first[1].length) break;
    const item = readItem(lines, end, match);
    items.push(parseBlocks(item.lines, depth + 1));
    tight &&= !item.hasGap;
    end = item.end;
    const next = skipBlank(lines, end);
    const follower = next > end && next < lines.length ? ITEM.exec(lines[next]) : null;
    if (follower && follower[2].at(-1) === kind && !RULE.test(lines[next])) {
      tight = false;
      end = next;
    }
  }
  return { block: { type: "list", ordered, start: ordered ? Number.parseInt(first[2], 10) : 1, tight, items }, end };
}

function readItem(lines, at, match) {
  const width = match[0].length;
  const enough = match[1].length + 2;
  const inner = [lines[at].slice(width)];
  let end = at + 1;
  let hasGap = false;
  while (end < lines.length) {
    const next = skipBlank(lines, end);
    if (next === lines.length) break;
    const indent = indentOf(lines[next]);
    const isOwn = indent >= Math.min(width, enough);
    const continues = next === end && !startsBlock(lines, next) && !isBlank(inner.at(-1));
    if (!isOwn && !continues) break;
    if (next > end) {
      hasGap = true;
      inner.push("");
    }
    inner.push(lines[next].slice(Math.min(indent, width)));
    end = next + 1;
  }
  return { lines: inner, end, hasGap };
}

function readParagraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !(depth < MAX_DEPTH && endsParagraph(lines, end))) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
  return { block: { type: "paragraph", text }, end };
}

/** As `startsBlock`, but a sentence that goes on with a number such as `1990.` is no list. */
function endsParagraph(lines, at) {
  const match = ITEM.exec(lines[at]);
  return startsBlock(lines, at) && !(match && /^\d/.test(match[2]) && Number.parseInt(match[2], 10) !== 1);
}

function startsBlock(lines, at) {
  const line = lines[at];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  return ITEM.test(line) || startsTable(lines, at);
}

function startsTable(lines, at) {
  if (!lines[at].includes("|") || at + 1 >= lines.length || !lines[at + 1].includes("-")) return false;
  const marks = cells(lines[at + 1]);
  return marks.every((mark) => /^:?-+:?$/.test(mark)) && marks.length === cells(lines[at]).length;
}

function readTable(lines, at) {
  const aligns = cells(lines[at + 1]).map((mark) => {
    if (mark.endsWith(":")) return mark.startsWith(":") ? "center" : "right";
    return "left";
  });
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && !isBlank(lines[end])) end += 1;
  // short rows stay short: filled up, a few kilobytes of bars could become millions of cells
  const rows = lines.slice(at + 2, end).map((line) => cells(line).slice(0, aligns.length));
  return { block: { type: "table", head: cells(lines[at]), aligns, rows }, end };
}

/** Cells of a table's line; `\|` is a bar inside a cell. */
function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.replaceAll("\\|", "|").trim());
}

function skipBlank(lines, at) {
  let next = at;
  while (next < lines.length && isBlank(lines[next])) next += 1;
  return next;
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}
