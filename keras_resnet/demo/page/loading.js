// Starts LiteRT's WebAssembly in a worker. Stands where LiteRT's own module would be imported, which waits for a page.

let place = null;

/**
 * Says where the loaders and their WebAssembly are.
 *
 * @param {string|Object<string, {loader: Blob, wasm: Blob}>} runtime A folder's address, or the files by the loader's
 *   name, compressed by gzip.
 */
export function placeRuntime(runtime) {
  place = runtime;
}

/** What LiteRT calls to get its module: `script` is the loader's address, of which the name counts. */
export async function createWasmLib(Library, script) {
  const name = script.slice(script.lastIndexOf("/") + 1);
  const options = {};
  let loader = script;
  if (typeof place !== "string") {
    loader = URL.createObjectURL(new Blob([await unpacked(place[name].loader)], { type: "text/javascript" }));
    options.wasmBinary = await unpacked(place[name].wasm);
  } else {
    options.locateFile = (file) => place + file;
  }
  // Threads are workers of their own that run the loader again.
  options.mainScriptUrlOrBlob = loader;
  self.importScripts(loader);
  // The module keeps what is called console.error while it starts. It reports what it does there, too.
  const { error } = console;
  console.error = (line, ...rest) => /^\s*(INFO|VERBOSE|WARNING):/.test(line) || error.call(console, line, ...rest);
  try {
    return new Library(await self.ModuleFactory(options));
  } finally {
    console.error = error;
  }
}

/** Unpacks what gzip packed. */
export async function unpacked(blob) {
  return new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}
