// Images of the page: a file in, bytes that the server takes out. What browsers can read and the server cannot (HEIC,
// AVIF, …), and what is larger than any model looks at, becomes a JPEG here.

import { sha256 } from "./sha256.js";
import { number, size } from "./dom.js";

/** @typedef {{hash: string, blob: Blob, name: string, width: number, height: number, was: string}} Picture
 *  `was`: what it was made of, where it was made into a JPEG */

const LONGEST = 2048;
const LARGEST = 4e6;
const TAKEN = ["image/jpeg", "image/png", "image/webp", "image/gif"];

/** Images by their hash, of this visit and of chats that were opened. @type {Map<string, Picture>} */
export const pictures = new Map();
/** @type {Map<string, string>} */
const urls = new Map();

/** An image that cannot be used, in a sentence. */
export class ImageError extends Error {}

/**
 * What a file's first bytes say that it is, whatever its name.
 * @param {Uint8Array} head
 */
function kindOf(head) {
  const text = String.fromCharCode(...head);
  if (text.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (text.startsWith("\x89PNG\r\n\x1a\n")) return "image/png";
  if (/^GIF8[79]a/.test(text)) return "image/gif";
  if (/^RIFF....WEBP/s.test(text)) return "image/webp";
  const brand = /^....ftyp(....)/s.exec(text)?.[1] ?? "";
  if (/^avi[fs]$/.test(brand)) return "image/avif";
  return /^(hei|hev|mif1|msf1)/.test(brand) ? "image/heic" : "";
}

/**
 * Take a file in.
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<Picture>}
 * @throws {ImageError}
 */
export async function take(file, name) {
  const kind = kindOf(new Uint8Array(await file.slice(0, 16).arrayBuffer()));
  let bitmap;
  try {
    bitmap = await createImageBitmap(kind ? new Blob([file], { type: kind }) : file);
  } catch {
    throw new ImageError(sentence(kind, file.type, name));
  }
  const { width, height } = bitmap;
  const format = (kind || file.type).replace(/^image\//, "").replace(/\+.*/, "").toUpperCase();
  const fits = Math.max(width, height) <= LONGEST && file.size <= LARGEST;
  let blob = new Blob([file], { type: kind });
  let [wide, high, was] = [width, height, ""];
  if (!TAKEN.includes(kind) || !fits) {
    const scale = Math.min(1, LONGEST / Math.max(width, height));
    [wide, high] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
    blob = await jpeg(bitmap, wide, high);
    was = `${format}, ${number(width)} × ${number(height)}, ${size(file.size)}`;
  }
  bitmap.close();
  const hash = await sha256(await blob.arrayBuffer());
  const picture = pictures.get(hash) ?? { hash, blob, name: name.slice(0, 200), width: wide, height: high, was };
  pictures.set(hash, picture);
  return picture;
}

/**
 * Why a file is no image for us, and what to do.
 * @param {string} kind
 * @param {string} type
 * @param {string} name
 */
function sentence(kind, type, name) {
  const which = name ? `“${name.length > 40 ? `${name.slice(0, 38)}…` : name}”` : "That";
  if (kind === "image/heic" || /hei[cf]/.test(type) || /\.hei[cf]$/i.test(name)) {
    return `${which} is a HEIC photo, which this browser cannot read. Save it as JPEG, or let the iPhone do so: Settings, Camera, Formats, Most Compatible.`;
  }
  if (kind === "image/avif") return `${which} is an AVIF image, which this browser cannot read. Save it as JPEG or PNG.`;
  if (kind || type.startsWith("image/")) return `${which} is damaged, or of a kind that this browser cannot read.`;
  return `${which} is no image. JPEG, PNG, WebP and GIF can be asked about.`;
}

/**
 * @param {ImageBitmap} bitmap
 * @param {number} width
 * @param {number} height
 * @returns {Promise<Blob>}
 */
function jpeg(bitmap, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = "#fff"; // as the server has it behind what is transparent
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return new Promise((done, failed) => {
    const told = new ImageError("The image is too large for this browser.");
    canvas.toBlob((blob) => (blob ? done(blob) : failed(told)), "image/jpeg", 0.92);
  });
}

/**
 * An address of an image's bytes, for <img>.
 * @param {string} hash
 */
export function urlOf(hash) {
  const picture = pictures.get(hash);
  if (picture && !urls.has(hash)) urls.set(hash, URL.createObjectURL(picture.blob));
  return urls.get(hash) ?? "";
}

/**
 * An image as a data URI; the page may not fetch those, but read them.
 * @param {Blob} blob
 * @returns {Promise<string>}
 */
export function dataUri(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(String(reader.result));
    reader.onerror = () => failed(new ImageError("The browser has lost an image: add it again."));
    reader.readAsDataURL(blob);
  });
}

/** @param {Picture} picture */
export const caption = (picture) =>
  `${number(picture.width)} × ${number(picture.height)}, ${size(picture.blob.size)}` +
  (picture.was ? ` (a JPEG made of ${picture.was})` : "");
