// From an image's pixels to a network's input, number for number as keras_resnet/data/transforms.py computes it.
//
// tf.image.resize with antialias=True weighs the source by a kernel that widens when an image shrinks, and is computed
// in float32: places and weights are rounded to it here, too, so that nothing but the order of additions differs.

const round = Math.fround;

// A kernel's radius, and its weight at a distance of 0..radius.
const KERNELS = {
  bilinear: { radius: 1, weight: (x) => Math.max(0, 1 - x) },
  bicubic: { radius: 2, weight: keysCubic },
  lanczos3: { radius: 3, weight: lanczos3 },
};

// Luma weights of Rec. 601 in 16-bit fixed point, as `LUMA` in keras_resnet/data/preprocessing.py.
const LUMA = [19595, 38470, 7471];

/** Keys 1981 with a = -1/2. */
function keysCubic(x) {
  if (x >= 2) return 0;
  return x >= 1 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : (1.5 * x - 2.5) * x * x + 1;
}

function lanczos3(x) {
  if (x > 3) return 0;
  if (x <= 1e-3) return 1;
  return (3 * Math.sin(Math.PI * x) * Math.sin((Math.PI * x) / 3)) / (Math.PI * x) ** 2;
}

/**
 * Brings an image to a network's size and number of channels.
 *
 * @param {{data: Uint8ClampedArray|Uint8Array, width: number, height: number}} image RGBA, opaque.
 * @param {object} settings `height`, `width`, `channels`, `interpolation`, `resize` and `crop_fraction` of
 *   preprocessing.json.
 * @returns {Float32Array} [height, width, channels], 0..255.
 */
export function networkInput(image, settings) {
  const cut = settings.resize === "crop" ? coverAndCrop(image, settings) : squash(settings);
  const isGrey = settings.channels === 1;
  return resize(isGrey ? luma(image.data) : image.data, isGrey ? 1 : 4, settings.channels, image, cut, settings);
}

/**
 * Which part of an image a network sees.
 *
 * @returns {{top: number, left: number, bottom: number, right: number}} In pixels of the image, as `seen_box` in
 *   keras_resnet/explanation/inputs.py.
 */
export function seenBox({ width, height }, settings) {
  if (settings.resize !== "crop") return { top: 0, left: 0, bottom: height, right: width };
  const scale = Math.max(settings.height / height, settings.width / width) / settings.crop_fraction;
  const seenHeight = Math.min(height, Math.max(1, roundHalfToEven(settings.height / scale)));
  const seenWidth = Math.min(width, Math.max(1, roundHalfToEven(settings.width / scale)));
  const top = Math.floor((height - seenHeight) / 2);
  const left = Math.floor((width - seenWidth) / 2);
  return { top, left, bottom: top + seenHeight, right: left + seenWidth };
}

function squash({ height, width }) {
  return { height, width, top: 0, left: 0 };
}

/** The size to resize to, and where the centre crop begins in it. */
function coverAndCrop(image, settings) {
  const coverHeight = roundHalfToEven(settings.height / settings.crop_fraction);
  const coverWidth = roundHalfToEven(settings.width / settings.crop_fraction);
  let [height, width] = [coverHeight, coverWidth];
  if (image.height * coverWidth >= image.width * coverHeight) {
    height = Math.max(Math.floor((image.height * coverWidth) / image.width), coverHeight);
  } else {
    width = Math.max(Math.floor((image.width * coverHeight) / image.height), coverWidth);
  }
  const top = roundHalfToEven((height - settings.height) / 2);
  const left = roundHalfToEven((width - settings.width) / 2);
  return { height, width, top, left };
}

function roundHalfToEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/** RGBA to grey in whole numbers, as Pillow's convert("L"). */
function luma(data) {
  const grey = new Uint8Array(data.length / 4);
  for (let place = 0, from = 0; place < grey.length; place++, from += 4) {
    grey[place] = (LUMA[0] * data[from] + LUMA[1] * data[from + 1] + LUMA[2] * data[from + 2] + 0x8000) >> 16;
  }
  return grey;
}

/** Rows first, then columns, as TensorFlow does it; only what the crop keeps is computed. */
function resize(data, stride, channels, image, cut, settings) {
  const rows = spans(image.height, cut.height, settings.interpolation, cut.top, settings.height);
  const columns = spans(image.width, cut.width, settings.interpolation, cut.left, settings.width);
  const first = columns.starts.reduce((a, b) => Math.min(a, b));
  const end = columns.starts.reduce((most, start, x) => Math.max(most, start + columns.sizes[x]), 0);
  const line = new Float32Array((end - first) * channels);
  const output = new Float32Array(settings.height * settings.width * channels);
  let place = 0;
  for (let y = 0; y < settings.height; y++) {
    line.fill(0);
    for (let k = 0; k < rows.sizes[y]; k++) {
      const weight = rows.weights[y * rows.widest + k];
      let from = ((rows.starts[y] + k) * image.width + first) * stride;
      for (let to = 0; to < line.length; from += stride) {
        for (let channel = 0; channel < channels; channel++) line[to++] += weight * data[from + channel];
      }
    }
    for (let x = 0; x < settings.width; x++) {
      const start = (columns.starts[x] - first) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        for (let k = 0; k < columns.sizes[x]; k++) {
          sum += columns.weights[x * columns.widest + k] * line[start + k * channels + channel];
        }
        // Cubic and Lanczos overshoot at edges; Pillow's 8 bits cannot, and so neither does Python's side.
        output[place++] = Math.min(255, Math.max(0, sum));
      }
    }
  }
  return output;
}

/**
 * Where each place of a resized row reads its source, and by which weights.
 *
 * @param {number} from Source pixels.
 * @param {number} to Pixels of the whole resized row.
 * @param {string} interpolation "bilinear", "bicubic", "lanczos3" or "nearest".
 * @param {number} first The first place that is wanted.
 * @param {number} count How many are.
 * @returns {{starts: Int32Array, sizes: Int32Array, weights: Float32Array, widest: number}} `widest` weights a place.
 */
export function spans(from, to, interpolation, first = 0, count = to) {
  const starts = new Int32Array(count);
  const sizes = new Int32Array(count).fill(1);
  if (from === to || interpolation === "nearest") {
    const scale = round(from / to);
    for (let x = 0; x < count; x++) {
      starts[x] = from === to ? first + x : Math.min(Math.floor(round(round(first + x + 0.5) * scale)), from - 1);
    }
    return { starts, sizes, weights: new Float32Array(count).fill(1), widest: 1 };
  }
  const { radius, weight } = KERNELS[interpolation];
  const inverse = round(1 / round(to / from));
  const widening = Math.max(inverse, 1);
  const narrowing = round(1 / widening);
  const widest = Math.min(2 * Math.ceil(round(radius * widening)) + 1, from);
  const weights = new Float32Array(count * widest);
  const reach = round(radius * widening);
  for (let x = 0; x < count; x++) {
    const centre = round(round(first + x + 0.5) * inverse);
    const start = clamp(Math.ceil(round(round(centre - reach) - 0.5)), from - 1);
    const end = clamp(Math.floor(round(round(centre + reach) - 0.5)), from - 1) + 1;
    let total = 0;
    for (let source = start; source < end; source++) {
      const distance = Math.abs(round(round(round(source + 0.5) - centre) * narrowing));
      const value = round(weight(distance));
      weights[x * widest + source - start] = value;
      total = round(total + value);
    }
    for (let k = 0; k < end - start; k++) weights[x * widest + k] *= round(1 / total);
    starts[x] = start;
    sizes[x] = end - start;
  }
  return { starts, sizes, weights, widest };
}

function clamp(value, highest) {
  return Math.min(Math.max(value, 0), highest);
}
