// What the page shows of each file's answer: the picture under its heat map, the most probable classes, the time.

import { finish, paint } from "./heatmap.js";
import { seenBox } from "./preprocessing.js";

const SHOWN = 5;
const LARGEST = 1280; // the longer side of a picture on the page
const REMEMBERED = 10;

/** Numbers as the page writes them. */
export const percent = (value) => `${(100 * value).toFixed(1)} %`;
export const milliseconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} ms`;

/** The middle of some numbers. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The numbers of the most probable classes, best first. */
export function best(probabilities, count = SHOWN) {
  const order = Array.from(probabilities.keys());
  return order.sort((a, b) => probabilities[b] - probabilities[a] || a - b).slice(0, count);
}

/** One file's answer on the page. */
export class Panel {
  #root;
  #photo;
  #heat;
  #times = [];

  /**
   * @param {object} manifest demo.json.
   * @param {string} name The file's.
   */
  constructor(manifest, name) {
    this.manifest = manifest;
    this.name = name;
    this.#root = document.querySelector("#panel").content.firstElementChild.cloneNode(true);
    this.#photo = this.#part("photo");
    this.#heat = this.#part("heat");
    this.#part("name").textContent = name;
  }

  get element() {
    return this.#root;
  }

  #part(name) {
    return this.#root.querySelector(`[data-part="${name}"]`);
  }

  /** Draws the photograph, and a frame round what the network sees of it. */
  show(bitmap, background, title) {
    const shrinking = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
    this.#photo.width = Math.max(1, Math.round(bitmap.width * shrinking));
    this.#photo.height = Math.max(1, Math.round(bitmap.height * shrinking));
    const context = this.#photo.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillStyle = background;
    context.fillRect(0, 0, this.#photo.width, this.#photo.height);
    context.drawImage(bitmap, 0, 0, this.#photo.width, this.#photo.height);
    this.#photo.setAttribute("aria-label", title);
    const seen = seenBox(bitmap, this.manifest.preprocessing);
    const place = {
      left: seen.left / bitmap.width,
      top: seen.top / bitmap.height,
      width: (seen.right - seen.left) / bitmap.width,
      height: (seen.bottom - seen.top) / bitmap.height,
    };
    for (const [side, value] of Object.entries(place)) this.#heat.style[side] = `${100 * value}%`;
    // A small picture is enlarged, but no more than its pixels bear; a tall one leaves room for what it shows.
    const ratio = bitmap.width / bitmap.height;
    const frame = this.#part("frame");
    frame.style.aspectRatio = `${bitmap.width} / ${bitmap.height}`;
    frame.style.maxWidth = `min(100%, ${Math.round(Math.max(120, Math.min(620, 560 * ratio)))}px)`;
    this.#heat.hidden = true;
  }

  /** Shows an answer. */
  answer({ probabilities, heatmap, milliseconds: time }, target) {
    const { labels, preprocessing, colors, files } = this.manifest;
    const order = best(probabilities);
    this.#part("classes").replaceChildren(...order.map((index) => bar(labels[index], probabilities[index])));
    const takesTarget = Boolean(files.find((file) => file.name === this.name).inputs.target);
    const explained = labels[takesTarget && target >= 0 ? target : order[0]];
    const map = heatmap && finish(heatmap, preprocessing.height, preprocessing.width);
    this.#heat.hidden = !map;
    this.#root.classList.toggle("mapped", Boolean(map));
    if (map) paint(this.#heat, map, preprocessing.height, preprocessing.width, colors);
    this.#part("caption").textContent = !heatmap
      ? "This file holds no heat map."
      : map
        ? `Heat map: where the picture speaks for ${explained}.`
        : `Constant map: nothing in the picture speaks for ${explained} more than the rest.`;
    this.#times = [...this.#times, time].slice(-REMEMBERED);
    const count = this.#times.length;
    this.#part("time").textContent = `${milliseconds(median(this.#times))} a picture`;
    this.#part("times").textContent = count > 1 ? `median of the last ${count}` : "one picture so far";
  }

  /** Whether the picture is shown grey, so that all colour is the map's. */
  set opacity(value) {
    this.#heat.style.opacity = value;
    this.#photo.classList.toggle("grey", value > 0);
  }
}

function bar(label, probability) {
  const row = document.createElement("li");
  const name = document.createElement("span");
  name.className = "label";
  name.textContent = label;
  const value = document.createElement("span");
  value.className = "value";
  value.textContent = percent(probability);
  const track = document.createElement("span");
  track.className = "track";
  track.setAttribute("aria-hidden", "true"); // the number beside it says the same
  const filled = document.createElement("span");
  filled.style.width = `${100 * Math.min(1, probability)}%`;
  track.append(filled);
  row.append(name, value, track);
  return row;
}

/**
 * Says where two files' answers differ.
 *
 * @param {string[]} labels
 * @param {Array<[string, object]>} answers Two of [name, answer].
 * @returns {string} A sentence or two.
 */
export function difference(labels, [[first, one], [second, other]]) {
  const [top, otherTop] = [best(one.probabilities, 1)[0], best(other.probabilities, 1)[0]];
  let widest = 0;
  one.probabilities.forEach((value, index) => {
    const apart = Math.abs(value - other.probabilities[index]);
    if (apart > Math.abs(one.probabilities[widest] - other.probabilities[widest])) widest = index;
  });
  const [before, after] = [one.probabilities[widest], other.probabilities[widest]];
  const agreed =
    top === otherTop
      ? `Both say ${labels[top]}.`
      : `They disagree: ${first} says ${labels[top]}, ${second} says ${labels[otherTop]}.`;
  const apart = (100 * Math.abs(before - after)).toFixed(1);
  return (
    `${agreed} They differ most at ${labels[widest]}, by ${apart} points: ` +
    `${percent(before)} by ${first}, ${percent(after)} by ${second}.`
  );
}
