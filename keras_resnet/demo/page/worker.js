// Answers the page beside it, so that the page never waits: one message after another.

import { pixelsOf } from "./decoding.js";
import { answer, load, start } from "./engine.js";
import { networkInput } from "./preprocessing.js";

let pixels = null; // of the photograph that was looked at last
let waiting = Promise.resolve();

const TASKS = {
  start: ({ runtime }) => start(runtime),
  load: ({ file, source }, id) => load(file, source, (part) => self.postMessage({ id, part })),
  look: async ({ bitmap, background, settings, names, target }) => {
    const began = performance.now();
    const image = pixelsOf(bitmap, background);
    bitmap.close();
    pixels = networkInput(image, settings);
    return { preparation: performance.now() - began, ...(await answers(names, target)) };
  },
  explain: ({ names, target }) => answers(names, target),
};

async function answers(names, target) {
  const found = {};
  for (const name of names) found[name] = await answer(name, pixels, target);
  return { answers: found };
}

self.addEventListener("message", ({ data: { id, task, ...given } }) => {
  waiting = waiting.then(async () => {
    try {
      self.postMessage({ id, result: await TASKS[task](given, id) });
    } catch (error) {
      self.postMessage({ id, error: error?.message ?? String(error) });
    }
  });
});
