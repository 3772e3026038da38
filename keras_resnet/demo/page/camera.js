// The camera: opened, read frame by frame, closed. What it sees stays in the page.

import { UserError } from "./decoding.js";

const REASONS = {
  NotAllowedError: "The browser does not let this page use the camera. Allow it beside the address and try again.",
  NotFoundError: "No camera was found. Connect one, or drop a photograph in.",
  NotReadableError: "The camera is in use by another program. Close that one and try again.",
};

/**
 * Opens a camera, on a phone the one that looks away from its owner.
 *
 * @returns {Promise<{frame: function(): Promise<ImageBitmap>, close: function(): void, ended: Promise<void>}>}
 * @throws {UserError} There is none, or the page may not use it.
 */
export async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new UserError(
      "This browser gives a camera to pages from https or from 127.0.0.1 alone. Open the page there, or drop a " +
        "photograph in.",
    );
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch (error) {
    throw new UserError(REASONS[error.name] ?? `The camera cannot be used: ${error.message}.`);
  }
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  video.srcObject = stream;
  await video.play();
  const [track] = stream.getVideoTracks();
  return {
    frame: async () => {
      await nextFrame(video);
      return createImageBitmap(video);
    },
    close: () => {
      track.stop();
      video.srcObject = null;
    },
    ended: new Promise((resolve) => track.addEventListener("ended", resolve, { once: true })),
  };
}

/** The next new frame; after a while the same one, so that a covered window does not wait for ever. */
function nextFrame(video) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, 200);
    const come = () => (clearTimeout(timer), resolve());
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(come);
    else requestAnimationFrame(come);
  });
}
