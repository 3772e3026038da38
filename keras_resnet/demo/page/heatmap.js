// From the numbers that a file returns to a heat map: as keras_resnet/explanation/maps.py and overlay.py do it.

/**
 * Enlarges a map linearly, the corners on the corners.
 *
 * @param {Float32Array} values [rows, columns].
 * @returns {Float32Array} [height, width].
 */
export function enlarge(values, rows, columns, height, width) {
  const output = new Float32Array(height * width);
  const across = Array.from({ length: width }, (_, x) => between(x, width, columns));
  for (let y = 0, place = 0; y < height; y++) {
    const [above, below, down] = between(y, height, rows);
    for (let x = 0; x < width; x++, place++) {
      const [left, right, aside] = across[x];
      const upper = values[above * columns + left] * (1 - aside) + values[above * columns + right] * aside;
      const lower = values[below * columns + left] * (1 - aside) + values[below * columns + right] * aside;
      output[place] = upper * (1 - down) + lower * down;
    }
  }
  return output;
}

/** The two source places beside place `index` of `target`, and the second one's share. */
function between(index, target, source) {
  const position = (index * (source - 1)) / Math.max(target - 1, 1);
  const first = Math.min(Math.floor(position), source - 1);
  return [first, Math.min(first + 1, source - 1), position - first];
}

/**
 * Finishes a map: at the network's size, divided by its maximum.
 *
 * @param {{values: Float32Array, rows: number, columns: number}} map At least 0, in units of the logit.
 * @returns {Float32Array|null} [height, width], 0..1; null where nothing stands out.
 */
export function finish(map, height, width) {
  const { values, rows, columns } = map;
  const largest = values.reduce((a, b) => Math.max(a, b), 0);
  const smallest = values.reduce((a, b) => Math.min(a, b), Infinity);
  // A map of one place, and one whose differences are rounding, would show noise.
  if (largest <= 0 || largest - smallest <= 1e-5 * largest) return null;
  const enlarged = enlarge(values, rows, columns, height, width);
  const most = enlarged.reduce((a, b) => Math.max(a, b), 0);
  return enlarged.map((value) => value / most);
}

/**
 * Draws a finished map.
 *
 * @param {HTMLCanvasElement} canvas Gets the map's size.
 * @param {Float32Array} map [height, width], 0..1.
 * @param {Uint8Array} colors 256 × RGB, from "nothing" to "most".
 */
export function paint(canvas, map, height, width, colors) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  map.forEach((value, place) => {
    const color = 3 * Math.round(Math.min(1, Math.max(0, value)) * 255);
    image.data.set([colors[color], colors[color + 1], colors[color + 2], 255], 4 * place);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}
