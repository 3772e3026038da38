// A set of .tflite files that answer, by LiteRT for the web.

import { loadAndCompile, loadLiteRt, Tensor } from "./litert.js";
import { placeRuntime, unpacked } from "./loading.js";

const ARRAYS = { float32: Float32Array, uint8: Uint8Array, int32: Int32Array };
const THREADS = 2;

const models = new Map();
let threads = 1;

/**
 * Starts the runtime.
 *
 * @param {string|object} runtime See `placeRuntime`.
 * @returns {Promise<number>} How many threads it computes with.
 */
export async function start(runtime) {
  placeRuntime(runtime);
  // Several threads share memory, which a browser gives to pages whose server asks for isolation alone.
  const canShare = self.crossOriginIsolated && typeof runtime === "string" && navigator.hardwareConcurrency > 1;
  const folder = typeof runtime === "string" ? runtime : "packed/";
  // LiteRT would look for a graphics processor, which is not used here, and complain of what it lacks.
  Object.defineProperty(navigator, "gpu", { value: undefined });
  const { warn } = console;
  console.warn = () => {};
  try {
    if (canShare) {
      try {
        await loadLiteRt(folder, { threads: true });
        threads = THREADS;
        return threads;
      } catch (error) {
        console.debug(`No threads: ${error.message ?? error}`); // a browser without relaxed SIMD has none
      }
    }
    await loadLiteRt(folder);
  } finally {
    console.warn = warn;
  }
  return threads;
}

/**
 * Loads a file, once.
 *
 * @param {object} file Its entry in demo.json.
 * @param {string|Blob} source Its address, or its contents, compressed by gzip.
 * @param {function(number): void} progress Told how much of it has come, 0..1.
 */
export async function load(file, source, progress) {
  if (models.has(file.name)) return;
  const contents = typeof source === "string" ? await fetched(source, file.bytes, progress) : await unpacked(source);
  const cpuOptions = { numThreads: threads };
  const compiled = await loadAndCompile(new Uint8Array(contents), { accelerator: "wasm", cpuOptions });
  models.set(file.name, { file, compiled });
}

async function fetched(address, bytes, progress) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} was answered by ${response.status}`);
  const parts = [];
  let received = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    received += value.length;
    progress(Math.min(1, received / bytes));
  }
  return new Blob(parts).arrayBuffer();
}

/**
 * Asks a loaded file.
 *
 * @param {string} name
 * @param {Float32Array} pixels [height, width, channels], 0..255.
 * @param {number} target The class to explain; -1: the most probable one. Where the file takes none, that one always.
 * @returns {Promise<object>} `probabilities`, `heatmap` ({values, rows, columns}, or null) and `milliseconds`.
 */
export async function answer(name, pixels, target) {
  const { file, compiled } = models.get(name);
  const given = { images: quantized(pixels, file.inputs.images) };
  if (file.inputs.target) given.target = new Int32Array([target]);
  const began = performance.now();
  const tensors = Object.fromEntries(
    Object.entries(given).map(([input, values]) => [input, new Tensor(values, file.inputs[input].shape)]),
  );
  let outputs = {};
  try {
    outputs = await compiled.run(file.signature, tensors);
    const found = {};
    for (const [output, details] of Object.entries(file.outputs)) {
      found[output] = dequantized((await outputs[output].data()).slice(), details);
    }
    const milliseconds = performance.now() - began;
    const shape = file.outputs.heatmap?.shape;
    const heatmap = shape ? { values: found.heatmap, rows: shape[1], columns: shape[2] } : null;
    return { probabilities: found.probabilities, heatmap, milliseconds };
  } finally {
    // Its memory is not collected by itself.
    for (const tensor of [...Object.values(tensors), ...Object.values(outputs)]) tensor.delete();
  }
}

/** Pixels as a tensor takes them; as `runtimes._quantized`, halves to the even number. */
export function quantized(values, { dtype, scale, zero_point }) {
  if (dtype === "float32") return values;
  const limits = { uint8: [0, 255] }[dtype];
  return ARRAYS[dtype].from(values, (value) => {
    const exact = value / scale;
    const below = Math.floor(exact);
    const rounded = exact - below === 0.5 ? below + (below % 2) : Math.round(exact);
    return Math.min(limits[1], Math.max(limits[0], rounded + zero_point));
  });
}

/** What a quantised tensor stands for. */
export function dequantized(values, { dtype, scale, zero_point }) {
  if (dtype === "float32") return values;
  return Float32Array.from(values, (value) => (value - zero_point) * scale);
}
