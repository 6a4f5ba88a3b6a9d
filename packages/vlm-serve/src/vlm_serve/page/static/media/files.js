// Files that a question may carry: checked, images turned upright and made small enough to send and to keep.

import { shortText } from "../view/dom.js";

const SENT_AS_THEY_ARE = new Set(["image/jpeg", "image/png", "image/webp"]);
const VIDEO_TYPES = new Set(["video/mp4", "video/webm"]);
const MAX_SIDE = 2048;
const MAX_IMAGE_BYTES = 2 * 1024 * 1024;
const MAX_VIDEO_BYTES = 20 * 1024 * 1024;
const QUALITY = 0.92;

/** An error whose message is for the user. */
export class FileError extends Error {}

/** What the file picker offers for a model. */
export function acceptedTypes(model) {
  return [model.images && "image/*", model.videos && [...VIDEO_TYPES].join(",")].filter(Boolean).join(",");
}

/** `file` as an attachment: `{id, name, kind, type, blob}`. Raises `FileError`. */
export async function prepareFile(file, model) {
  const shown = `“${shortText(file.name, 40)}”`;
  if (file.type.startsWith("video/")) return prepareVideo(file, shown, model);
  if (!model.images) throw new FileError(`${shown} is left out: this model reads no images.`);
  const blob = await uprightImage(file, shown);
  return { id: newId(), name: file.name, kind: "image", type: blob.type, blob };
}

function prepareVideo(file, shown, model) {
  if (!model.videos) throw new FileError(`${shown} is left out: this model reads no videos.`);
  const type = file.type.split(";")[0];
  if (!VIDEO_TYPES.has(type)) throw new FileError(`${shown} is left out: videos are MP4 or WebM files.`);
  if (file.size > MAX_VIDEO_BYTES) throw new FileError(`${shown} is left out: it is larger than 20 MB.`);
  return { id: newId(), name: file.name, kind: "video", type, blob: new Blob([file], { type }) };
}

/**
 * The image as a JPEG, PNG or WebP file. Small ones keep their bytes; the server turns them by their EXIF orientation,
 * as the browser does. Others are drawn anew, upright, on white, with sides of at most `MAX_SIDE` pixels.
 */
async function uprightImage(file, shown) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new FileError(`${shown} is left out: it is no image that this browser can read.`);
  }
  const longest = Math.max(bitmap.width, bitmap.height);
  const small = longest <= MAX_SIDE && file.size <= MAX_IMAGE_BYTES;
  if (small && SENT_AS_THEY_ARE.has(file.type)) {
    bitmap.close();
    return new Blob([file], { type: file.type });
  }
  const scale = Math.min(1, MAX_SIDE / longest);
  const drawn = drawOnWhite(bitmap, Math.max(1, bitmap.width * scale), Math.max(1, bitmap.height * scale));
  bitmap.close();
  return canvasBlob(drawn, "image/jpeg");
}

/** `source`, a bitmap or a playing video, on a canvas of its own. */
export function drawOnWhite(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width);
  canvas.height = Math.round(height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

export function canvasBlob(canvas, type) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new FileError("The image can't be drawn."))), type, QUALITY);
  });
}

/** `data:` address of a blob. */
export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** A name that is unique in this browser; `crypto.randomUUID` is missing on pages without HTTPS. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
