// Classification in this browser, by onnxruntime-web: images never leave the computer.
//
// The scripts before this one hold the model's card (MODEL), the runtime (loadOrt) and its WebAssembly (ORT_WASM). From
// a disk (file://) a browser loads scripts and nothing else, so all of it, and the model too, comes as scripts.
"use strict";

(function () {
  const { decode, pixels } = globalThis.xtrain;
  const TOLERANCE = 1e-4; // of the reference images' probabilities
  const OVERLAY_SIDE = 512;
  const COLOUR = [255, 230, 0]; // of the heatmap, as the server draws it: what stained tissue has least of
  const STRENGTH = 0.65;

  function fromBase64(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  async function unpack(content, format) {
    const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream(format));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  let piece = null;
  globalThis.addPiece = (text) => { piece = fromBase64(text); }; // what model-0.js, model-1.js, … call

  function loadScript(url) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = () => { script.remove(); resolve(); };
      script.onerror = () => reject(new Error(`${url} cannot be read; copy the folder whole`));
      document.head.append(script);
    });
  }

  /** The bytes of the model. */
  async function loadModel() {
    if (location.protocol !== "file:") {
      const response = await fetch("model.onnx", { cache: "no-cache" });
      if (!response.ok) throw new Error(`model.onnx cannot be read (${response.status}); copy the folder whole`);
      const model = new Uint8Array(await response.arrayBuffer());
      if (model.length !== MODEL.bytes) throw new Error("model.onnx is not the file that the card is of; copy the folder whole");
      return model;
    }
    if (!MODEL.pieces) {
      throw new Error("this model is too large to be opened from a disk; serve the folder, as with python -m http.server");
    }
    const model = new Uint8Array(MODEL.bytes);
    for (let number = 0, at = 0; number < MODEL.pieces; number += 1) {
      await loadScript(`model-${number}.js`);
      model.set(piece, at);
      at += piece.length;
    }
    piece = null;
    return model;
  }

  /** What the worker does: open the model, then run it. It becomes text, so it uses only what stands beside it there. */
  function work() {
    let session;
    const ort = loadOrt();
    self.onmessage = async ({ data }) => {
      try {
        if (data.model) {
          ort.env.wasm.wasmBinary = data.wasm;
          ort.env.wasm.numThreads = 1; // more need headers that neither GitHub Pages nor a disk sends
          session = await ort.InferenceSession.create(data.model, { executionProviders: ["wasm"] });
          self.postMessage({});
          return;
        }
        const results = await session.run({ [data.input]: new ort.Tensor("uint8", data.pixels, data.shape) }, data.outputs);
        self.postMessage({ results: data.outputs.map((name) => results[name].data) });
      } catch (error) {
        self.postMessage({ error: String(error.message ?? error) });
      }
    };
  }

  /** A function that runs the model in a worker, one run after another: (pixels, images, outputs) to arrays. */
  async function openSession() {
    if (typeof loadOrt === "undefined" || typeof ORT_WASM === "undefined") {
      throw new Error("ort.js or ort-wasm.js is missing; copy the folder whole");
    }
    const source = new Blob([`${loadOrt}\n${work}\nwork();`], { type: "text/javascript" });
    const worker = new Worker(URL.createObjectURL(source));
    let last = Promise.resolve();
    const ask = (message, moved = []) => {
      const answer = last.then(() => new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data.results));
        worker.onerror = (event) => reject(new Error(event.message));
        worker.postMessage(message, moved);
      }));
      last = answer.catch(() => {});
      return answer;
    };
    const model = await loadModel();
    const wasm = (await unpack(fromBase64(ORT_WASM), "gzip")).buffer;
    await ask({ model, wasm }, [model.buffer, wasm]);
    const { name, shape: [, ...shape] } = MODEL.card.input;
    return (data, images, outputs) => ask({ pixels: data, shape: [images, ...shape], input: name, outputs });
  }

  /** Refuse a browser that changes what is drawn, as some do against fingerprinting. */
  function checkCanvas() {
    const context = new OffscreenCanvas(16, 16).getContext("2d", { willReadFrequently: true });
    const drawn = new ImageData(16, 16);
    drawn.data.forEach((_, index) => { drawn.data[index] = index % 4 === 3 ? 255 : (index * 89) % 256; });
    context.putImageData(drawn, 0, 0);
    const read = context.getImageData(0, 0, 16, 16).data;
    if (!read.every((value, index) => value === drawn.data[index])) {
      throw new Error("this browser changes the pixels of images to hide its user; allow canvas for this page");
    }
  }

  class Browser {
    constructor() {
      this.parallel = 1;
      this.where = "Images stay on this computer.";
      this.shape = MODEL.card.input.shape.slice(1);
    }

    /** The one model, once it is loaded and answers as it did at its export. */
    async models() {
      checkCanvas();
      this.run ??= await openSession();
      await this.#checkReferences();
      const { name, version } = MODEL.card;
      return { default: name, models: [{ name, version, sha256: MODEL.sha256 }] };
    }

    async card() {
      return { ...MODEL.card, sha256: MODEL.sha256 };
    }

    *groups(results) {
      for (const result of results) yield [result];
    }

    async classify(files) {
      const answers = [];
      for (const file of files) {
        try {
          const [probabilities] = await this.run(await this.#pixels(file), 1, ["probabilities"]);
          answers.push({ probabilities: [...probabilities] });
        } catch (error) {
          answers.push({ error: { message: error.message } });
        }
      }
      return answers;
    }

    async heatmap(file) {
      const picture = await this.#decode(file);
      const [heat] = await this.run(pixels.fit(picture, this.shape), 1, ["heatmap"]);
      const scale = Math.min(1, OVERLAY_SIDE / Math.max(picture.width, picture.height));
      const [width, height] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
      const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
      const { data } = pixels.resize(pixels.rgb(picture), width, height);
      const image = new ImageData(width, height);
      for (let from = 0, to = 0; from < data.length; from += 3, to += 4) {
        image.data.set([data[from], data[from + 1], data[from + 2], 255], to);
      }
      context.putImageData(image, 0, 0);
      context.imageSmoothingQuality = "high";
      context.drawImage(this.#tint(heat), 0, 0, width, height);
      return URL.createObjectURL(await canvas.convertToBlob());
    }

    #tint(heat) {
      const [height, width] = this.shape;
      const canvas = new OffscreenCanvas(width, height), image = new ImageData(width, height);
      heat.forEach((value, index) => image.data.set([...COLOUR, Math.round(255 * STRENGTH * value)], 4 * index));
      canvas.getContext("2d").putImageData(image, 0, 0);
      return canvas;
    }

    async #pixels(file) {
      return pixels.fit(await this.#decode(file), this.shape);
    }

    async #decode(file) {
      return decode(file);
    }

    async #checkReferences() {
      const { references, classes } = MODEL.card;
      if (!references) return;
      const images = await unpack(fromBase64(references.images), "deflate");
      const [probabilities] = await this.run(images, references.count, ["probabilities"]);
      const expected = references.probabilities.flat();
      if (!expected.every((value, index) => Math.abs(value - probabilities[index]) <= TOLERANCE)) {
        throw new Error(`this browser computes other probabilities of the ${classes.length} classes than at the export`);
      }
    }
  }

  globalThis.xtrain = { ...globalThis.xtrain, backend: new Browser() };
})();
