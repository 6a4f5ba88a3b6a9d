// A dialog that takes a photo, or a short video where the model reads videos.

import { canvasBlob, drawOnWhite } from "./files.js";
import { element, textButton } from "../view/dom.js";
import { openDialog } from "../dialogs/dialog.js";

const MAX_SECONDS = 30;

/** Browsers offer cameras to pages from `localhost` or over HTTPS only. */
export const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** Show the camera; `onFile` gets what was taken, a `File`. */
export async function openCamera(model, onFile) {
  const label = "Picture of the camera";
  const video = element("video", { class: "camera", autoplay: true, playsinline: true, "aria-label": label });
  video.muted = true;
  const status = element("p", { class: "soft", role: "status" }, "Waiting for the camera…");
  const buttons = element("div", { class: "dialog-row" });
  let stream = null;
  let closed = false;
  const dialog = openDialog("Camera", [video, status, buttons], () => {
    closed = true;
    stream?.getTracks().forEach((track) => track.stop());
  });
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const denied = error.name === "NotAllowedError";
    status.textContent = denied ? "The browser doesn't let this page use the camera." : "There is no camera to use.";
    return;
  }
  if (closed) {
    stream.getTracks().forEach((track) => track.stop());
    return;
  }
  video.srcObject = stream;
  await new Promise((resolve) => video.addEventListener("loadedmetadata", resolve, { once: true }));
  status.textContent = "";
  const done = (file) => {
    dialog.close();
    onFile(file);
  };
  if (model.images) buttons.append(photoButton(video, done));
  if (model.videos && window.MediaRecorder) buttons.append(recordButton(stream, status, done));
  buttons.firstElementChild?.focus();
}

function photoButton(video, done) {
  const take = async () => {
    const blob = await canvasBlob(drawOnWhite(video, video.videoWidth, video.videoHeight), "image/jpeg");
    done(new File([blob], "photo.jpg", { type: "image/jpeg" }));
  };
  return textButton("Take a photo", take, { class: "button primary" });
}

function recordButton(stream, status, done) {
  let recorder = null;
  const button = textButton("Record a video", () => {
    if (recorder) {
      recorder.stop();
      return;
    }
    const type = ["video/webm", "video/mp4"].find((name) => MediaRecorder.isTypeSupported(name));
    recorder = new MediaRecorder(stream, { mimeType: type });
    const parts = [];
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = () => {
      clearTimeout(timer);
      // a closed dialog stops the stream, and so the recorder: what it holds isn't wanted then
      if (button.isConnected) done(new File(parts, `video.${type.slice(6)}`, { type }));
    };
    recorder.start();
    const timer = setTimeout(() => recorder.stop(), MAX_SECONDS * 1000);
    button.textContent = "Stop recording";
    status.textContent = `Recording, at most ${MAX_SECONDS} seconds.`;
  });
  return button;
}
