// The two endpoints of an OpenAI-compatible server that the page uses.

import { eventData } from "./sse.js";

/** Beside the page's own address, so that the page works under a path prefix. */
export const API = new URL("v1/", document.baseURI).href;

/** What the server or the network says went wrong; `status` is 0 where there was no answer. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The served models: name, and what is known of each (`images`, `videos`, `system`). */
export async function listModels(key) {
  const response = await request("models", { headers: headers(key) });
  const { data } = await response.json().catch(() => ({}));
  if (!Array.isArray(data)) throw new ApiError("The server's list of models can't be read.", response.status);
  return data.filter((entry) => typeof entry?.id === "string").map(modelFacts);
}

/** Facts that a server doesn't tell: images and system messages are tried, videos are not offered. */
function modelFacts(entry) {
  return {
    name: entry.id,
    images: entry.images !== false,
    videos: entry.videos === true,
    system: entry.system !== false,
  };
}

/** The chunks of a streamed answer; ends with an error unless the server marked the end of the answer. */
export async function* streamChat(body, key, signal) {
  const options = { method: "POST", headers: headers(key), body: JSON.stringify(body), signal };
  const response = await request("chat/completions", options);
  let finished = false;
  try {
    for await (const data of eventData(response.body)) {
      if (data === "[DONE]") return;
      const chunk = parsed(data);
      if (chunk.error) throw new ApiError(errorText(chunk) ?? "The server ended the answer with an error.", 500);
      finished ||= Boolean(chunk.choices?.[0]?.finish_reason);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError("The connection was lost before the answer was complete.");
  }
  if (!finished) throw new ApiError("The connection ended before the answer was complete.");
}

function headers(key) {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function parsed(data) {
  try {
    return Object(JSON.parse(data));
  } catch {
    throw new ApiError("The server sent a part of the answer that is not JSON.", 500);
  }
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(API + path, { ...options, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server can't be reached.");
  }
  if (response.ok) return response;
  const content = await response.json().catch(() => null);
  const text = errorText(content) ?? `The server answered with status ${response.status}.`;
  throw new ApiError(text, response.status);
}

/** The message of OpenAI's, Starlette's or FastAPI's errors. */
function errorText(content) {
  const message = content?.error?.message ?? content?.error ?? content?.detail ?? content?.message;
  return typeof message === "string" && message ? message : null;
}
