// How fast an answer came, measured here, and what its server says of the tokens.

const SHORTEST = 0.01; // seconds

/** Measures one answer from its request on. */
export class AnswerStats {
  #start = performance.now();
  #first = null;
  #last = null;
  #usage = {};

  /** A chunk has come with this text, which may be empty, and the usage so far or at the end, if any. */
  add(text, usage) {
    if (text) {
      this.#last = performance.now();
      this.#first ??= this.#last;
    }
    if (usage) this.#usage = usage;
  }

  /** Seconds to the first text and from the first to the last, and counts of tokens; null where unknown. */
  get values() {
    const seconds = (from, to) => (from === null || to === null ? null : (to - from) / 1000);
    return {
      firstToken: seconds(this.#start, this.#first),
      decoding: seconds(this.#first, this.#last),
      completionTokens: count(this.#usage.completion_tokens),
      promptTokens: count(this.#usage.prompt_tokens),
      cachedTokens: count(this.#usage.prompt_tokens_details?.cached_tokens),
    };
  }
}

/** One line, such as `0.21 s to first token · 84 tokens/s · 1,200 of 1,260 prompt tokens cached`. */
export function statsLine({ firstToken, decoding, completionTokens, promptTokens, cachedTokens }) {
  const parts = [];
  if (firstToken !== null) parts.push(`${firstToken.toFixed(2)} s to first token`);
  // the first token is there when the clock starts; what comes all at once says nothing of the rate
  const hasRate = completionTokens > 1 && decoding >= SHORTEST;
  if (hasRate) parts.push(`${rounded((completionTokens - 1) / decoding)} tokens/s`);
  if (promptTokens !== null && cachedTokens !== null) {
    parts.push(`${grouped(cachedTokens)} of ${grouped(promptTokens)} prompt tokens cached`);
  }
  return parts.join(" · ");
}

function count(value) {
  return Number.isInteger(value) && value >= 0 ? value : null;
}

const grouped = (value) => value.toLocaleString("en");

function rounded(value) {
  return value < 10 ? value.toFixed(1) : grouped(Math.round(value));
}
