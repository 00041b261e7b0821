// The camera, where the browser gives one: over https, and on the server's own machine.

import { byId, notice } from "./dom.js";

/**
 * A photo, unless none is taken.
 * @returns {Promise<File | null>}
 */
export async function photograph() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 2048 } } });
  } catch (error) {
    const refused = error instanceof DOMException && error.name === "NotAllowedError";
    notice(refused ? "The browser does not let this page use the camera." : "There is no camera that can be used.");
    return null;
  }
  /** @type {HTMLDialogElement} */
  const dialog = byId("camera");
  const video = /** @type {HTMLVideoElement} */ (dialog.querySelector("video"));
  const shutter = /** @type {HTMLButtonElement} */ (dialog.querySelector(".shutter"));
  video.srcObject = stream;
  dialog.showModal();
  try {
    return await new Promise((done) => {
      dialog.onclose = () => done(null);
      shutter.onclick = () => {
        const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
        canvas.getContext("2d")?.drawImage(video, 0, 0);
        canvas.toBlob((blob) => blob && done(new File([blob], "photo.jpg", { type: "image/jpeg" })), "image/jpeg", 0.92);
      };
    });
  } finally {
    stream.getTracks().forEach((track) => track.stop());
    dialog.close();
  }
}
