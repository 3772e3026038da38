// Image files to pixels, by the rules of keras_resnet/data/images.py: EXIF turns of JPEG files applied, transparent
// pixels on white (a GIF's on black), colours as the file stores them, of an animation the first frame.

// A picture of more pixels takes gigabytes on its way, and a canvas of many browsers holds no more.
const MOST_PIXELS = 100e6;

/** What is wrong with what the user gave, as a sentence for them. */
export class UserError extends Error {}

/**
 * Decodes an image file.
 *
 * @param {Blob} file
 * @returns {Promise<{bitmap: ImageBitmap, background: string}>} The picture, and the colour behind what is transparent.
 * @throws {UserError} The file is no image that this browser reads, or is too large.
 */
export async function decode(file) {
  const name = file.name || "What was pasted";
  if (file.size === 0) throw new UserError(`${name} is empty. Choose a photograph.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(await unturned(file), { colorSpaceConversion: "none" });
  } catch {
    throw new UserError(`${name} is no image that this browser reads. Use JPEG, PNG, GIF, BMP or WebP.`);
  }
  if (bitmap.width * bitmap.height > MOST_PIXELS) {
    const size = `${bitmap.width} × ${bitmap.height}`;
    bitmap.close();
    throw new UserError(`${name} has ${size} pixels; at most ${MOST_PIXELS / 1e6} million can be taken. Shrink it.`);
  }
  const isGif = (await file.slice(0, 3).text()) === "GIF";
  return { bitmap, background: isGif ? "#000" : "#fff" };
}

/**
 * Takes the EXIF out of PNG and WebP files: Python turns JPEG files alone. (The option imageOrientation: "none" would say
 * so, but Chromium 156 turns all the same.)
 */
async function unturned(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  const text = (at, length) => String.fromCharCode(...bytes.subarray(at, at + length));
  if (text(1, 3) === "PNG") {
    // Length, type, data and checksum of each chunk.
    for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
      if (text(at + 4, 4) === "eXIf") {
        return new Blob([bytes.subarray(0, at), bytes.subarray(at + 12 + view.getUint32(at))]);
      }
    }
  } else if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") {
    // Type, length and data of each chunk, to an even length. What readers do not know they skip.
    for (let at = 12; at + 8 <= bytes.length; at += 8 + view.getUint32(at + 4, true) + (view.getUint32(at + 4, true) % 2)) {
      if (text(at, 4) === "EXIF") bytes.set([0x5f], at);
    }
  }
  return new Blob([bytes]);
}

/**
 * Returns a picture's pixels, RGBA and opaque.
 *
 * @param {ImageBitmap} bitmap
 * @param {string} background The colour behind what is transparent.
 * @returns {ImageData}
 */
export function pixelsOf(bitmap, background) {
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  // Read back often: kept in main memory, where nothing is rounded on the way.
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = background;
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height);
}
