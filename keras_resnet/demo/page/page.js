// The page: photographs and camera in, answers out. What computes is in worker.js.

import { openCamera } from "./camera.js";
import { decode, UserError } from "./decoding.js";
import { difference, median, milliseconds, Panel, percent, best } from "./panels.js";

const manifest = JSON.parse(document.querySelector("#manifest").textContent);
manifest.colors = bytesOf(manifest.colors);

const $ = (id) => document.getElementById(id);
const photos = [];
let current = null; // the photograph that was chosen last
let seen = null; // the title of the picture that the worker has; null while another one is decoded
let camera = null;
let panels = [];
let turn = 0; // of what was asked last: an older answer is not shown
let ask = null;

begin();

async function begin() {
  if (typeof WebAssembly === "undefined" || typeof Worker === "undefined") {
    return fail(
      "This browser has no WebAssembly, which runs the model. Use a current browser, or allow WebAssembly in its " +
        "settings.",
    );
  }
  if (typeof OffscreenCanvas === "undefined" || typeof DecompressionStream === "undefined") {
    return fail("This browser is too old for the page: use Chrome, Edge, Firefox or Safari of 2023 or later.");
  }
  if (location.protocol === "file:" && !$("worker")) {
    return fail("A browser runs this page from a server alone. Serve it by demo.py --serve, or write it by --single-file.");
  }
  ask = startWorker();
  say("Starting …");
  try {
    const threads = await ask({ task: "start", runtime: runtime() });
    $("threads").textContent = threads === 1 ? "1 thread" : `${threads} threads`;
    await choose();
  } catch (error) {
    return fail(`The runtime cannot be started: ${error.message}. Load the page anew, or use another browser.`);
  }
  listen();
  document.body.classList.add("ready");
}

/** The worker as a function: a task in, its result out. */
function startWorker() {
  const inside = $("worker");
  const address = inside
    ? URL.createObjectURL(new Blob([new TextDecoder().decode(bytesOf(inside.textContent))], { type: "text/javascript" }))
    : "worker.js";
  const worker = new Worker(address);
  const waiting = new Map();
  let last = 0;
  worker.addEventListener("message", ({ data: { id, result, error, part } }) => {
    const { resolve, reject, progress } = waiting.get(id);
    if (part !== undefined) return progress?.(part);
    waiting.delete(id);
    if (error === undefined) resolve(result);
    else reject(new Error(error));
  });
  worker.addEventListener("error", (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message || "its worker does not start"));
    waiting.clear();
  });
  return (message, { transfer = [], progress } = {}) =>
    new Promise((resolve, reject) => {
      waiting.set(++last, { resolve, reject, progress });
      worker.postMessage({ id: last, ...message }, transfer);
    });
}

/** Where the runtime is: beside the page, or in it. */
function runtime() {
  if (!$("worker")) return new URL("litert/", location.href).href;
  const packed = {};
  for (const element of document.querySelectorAll("[data-runtime]")) {
    const { runtime: name, part } = element.dataset;
    packed[name] = { ...packed[name], [part]: new Blob([bytesOf(element.textContent)]) };
    element.remove(); // the text takes memory
  }
  return packed;
}

function sourceOf(file) {
  const inside = document.querySelector(`[data-file="${file.name}"]`);
  return inside ? new Blob([bytesOf(inside.textContent)]) : new URL(file.file, location.href).href;
}

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Which files answer, by the chooser: one, or all of them side by side. */
async function choose() {
  const wanted = manifest.files.filter((file) => ["all", file.name].includes($("files").value));
  const files = [];
  for (const file of wanted) if (await load(file)) files.push(file);
  panels = files.map(({ name }) => panels.find((panel) => panel.name === name) ?? new Panel(manifest, name));
  $("panels").replaceChildren(...panels.map((panel) => panel.element));
  $("panels").classList.toggle("split", panels.length > 1);
  $("difference").hidden = true;
  $("class-choice").hidden = !files.some((file) => file.inputs.target);
  $("opacity-choice").hidden = !files.some((file) => file.outputs.heatmap);
  setOpacity();
  say(current || camera ? "" : "Ready. Choose, drop or paste a photograph, or use the camera.");
  if (current && !camera) await show(current);
}

/** Loads a file; false where that fails, which the page then says. */
async function load(file) {
  const size = `${(file.bytes / 1e6).toFixed(1)} MB`;
  try {
    const progress = (part) => say(`Loading ${file.name}, ${Math.round(100 * part)} % of ${size} …`);
    await ask({ task: "load", file, source: sourceOf(file) }, { progress });
    return true;
  } catch (error) {
    warn(
      `${file.name} (${size}) cannot be loaded: ${error.message}. Where it is too large for this browser's memory, close ` +
        "other pages or take a smaller file, such as int8.",
    );
    return false;
  }
}

/** Shows a photograph and asks every chosen file about it. */
async function show(photo) {
  const before = seen;
  seen = null;
  try {
    const { bitmap, background } = await decode(photo.file);
    if (camera || photo !== current) return bitmap.close(); // another was chosen meanwhile
    await look(bitmap, background, photo.file.name || "pasted picture");
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    if (photo !== current) return;
    seen = before;
    warn(error.message);
  }
}

async function look(bitmap, background, title) {
  if (!panels.length) return warn("No file is loaded that could answer. Load the page anew.");
  const mine = ++turn;
  const shown = panels;
  for (const panel of shown) panel.show(bitmap, background, title);
  $("answer").hidden = false;
  const names = shown.map((panel) => panel.name);
  const { preprocessing: settings } = manifest;
  seen = title;
  const message = { task: "look", bitmap, background, settings, names, target: target() };
  const result = await answered(message, [bitmap]);
  if (result && mine === turn) render(result, title);
}

/** Asks once more about the same picture, for another class. One that is still decoded is asked for that class anyway. */
async function explain() {
  if (camera || seen === null) return;
  const mine = ++turn;
  const title = seen;
  const result = await answered({ task: "explain", names: panels.map((panel) => panel.name), target: target() });
  if (result && mine === turn) render(result, title);
}

/** The worker's answer; nothing where it fails, which the page then says. */
async function answered(message, transfer = []) {
  try {
    return await ask(message, { transfer });
  } catch (error) {
    stopCamera();
    warn(`The picture could not be answered: ${error.message}. Load the page anew.`);
    return null;
  }
}

function render({ answers, preparation }, title) {
  for (const panel of panels) panel.answer(answers[panel.name], target());
  const pairs = Object.entries(answers);
  $("difference").hidden = pairs.length !== 2;
  if (pairs.length === 2) $("difference").textContent = difference(manifest.labels, pairs);
  if (preparation !== undefined) $("preparation").textContent = milliseconds(preparation);
  const [[, first]] = pairs;
  const [top] = best(first.probabilities, 1);
  if (!camera) say(`${title}: ${manifest.labels[top]}, ${percent(first.probabilities[top])}.`);
  warn("");
  document.dispatchEvent(new CustomEvent("answer", { detail: { title, answers, target: target() } }));
}

function target() {
  return Number($("class").value);
}

/** Takes new photographs in and shows the first of them. */
async function take(files) {
  const added = [...files].map((file) => ({ file }));
  if (!added.length) return;
  stopCamera();
  photos.push(...added);
  for (const photo of added) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "thumbnail";
    const name = photo.file.name || "pasted picture";
    button.setAttribute("aria-label", `Show ${name}`);
    button.title = name;
    const image = document.createElement("img");
    image.alt = "";
    image.src = URL.createObjectURL(photo.file);
    image.addEventListener("error", () => image.replaceWith("?"), { once: true });
    button.append(image);
    button.addEventListener("click", () => select(photo));
    photo.button = button;
    $("photos").append(button);
  }
  $("photos").hidden = photos.length < 2;
  await select(added[0]);
}

async function select(photo) {
  stopCamera();
  current = photo;
  for (const other of photos) other.button.setAttribute("aria-pressed", String(other === photo));
  await show(photo);
}

async function live() {
  try {
    camera = await openCamera();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return warn(error.message);
  }
  warn("");
  $("camera").textContent = "Stop the camera";
  $("camera").setAttribute("aria-pressed", "true");
  say("The camera is on. Its pictures stay in this page.");
  const mine = camera;
  camera.ended.then(() => mine === camera && stopCamera());
  const times = [];
  while (camera === mine) {
    const frame = await mine.frame();
    if (camera !== mine) return frame.close();
    await look(frame, "#fff", "camera");
    times.push(performance.now());
    if (times.length > 11) times.shift();
    if (times.length > 1 && camera === mine) {
      const gaps = times.slice(1).map((time, index) => time - times[index]);
      $("rate").textContent = `${(1000 / median(gaps)).toFixed(1)} frames a second`;
    }
  }
}

function stopCamera() {
  if (!camera) return;
  camera.close();
  camera = null;
  $("rate").textContent = "";
  $("camera").textContent = "Use the camera";
  $("camera").setAttribute("aria-pressed", "false");
  say("The camera is off.");
}

function setOpacity() {
  const value = Number($("opacity").value) / 100;
  $("opacity-value").textContent = `${$("opacity").value} %`;
  for (const panel of panels) panel.opacity = value;
}

function listen() {
  $("file").addEventListener("change", () => {
    take($("file").files);
    $("file").value = ""; // so that the same file can be chosen again
  });
  $("camera").addEventListener("click", () => (camera ? stopCamera() : live()));
  $("opacity").addEventListener("input", setOpacity);
  $("class").addEventListener("change", explain);
  $("files").addEventListener("change", choose);
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      $("drop").classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    $("drop").classList.remove("over");
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) take(files);
    else warn("What was pasted is no picture. Copy a photograph, not its address.");
  });
  for (const id of ["file", "camera", "files", "class", "opacity"]) $(id).disabled = false;
}

/** What happens, for eyes and screen readers. */
function say(text) {
  $("status").textContent = text;
}

/** What went wrong and what to do; "" takes it back. */
function warn(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

/** What ends the page. */
function fail(text) {
  say("");
  warn(text);
  document.body.classList.add("failed");
}
