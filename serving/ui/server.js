// Classification by the server that sent this page.
"use strict";

(function () {
  const IMAGES = 16; // of one request
  const BYTES = 4 * 1024 * 1024; // of one request; a larger image goes alone
  const TRIES = 6; // of a request that the server was too busy for
  const BUSY = [429, 503];
  const SECONDS = 60; // at most between two tries, whatever Retry-After says

  class Refused extends Error {
    /** A request that was refused: status 0 where the server did not answer. */
    constructor(status, message, seconds = 1) {
      super(message);
      this.status = status;
      this.seconds = seconds;
    }
  }

  function wait(seconds, signal) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const timer = setTimeout(resolve, seconds * 1000);
      signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
    });
  }

  class Server {
    constructor(base = "../") {
      this.base = base;
      this.token = "";
      this.parallel = 2; // requests at a time
      this.where = "Images are sent to this server and nowhere else; it keeps none.";
    }

    /** The models that are loaded: {default, models: [{name, version, sha256}]}. */
    models(signal) {
      return this.#ask("v1/models", { signal });
    }

    /** The card of a model. */
    card(model, signal) {
      return this.#ask(`v1/model?${this.#query(model)}`, { signal });
    }

    /** Files in groups that one request takes. */
    *groups(results) {
      let group = [], bytes = 0;
      for (const result of results) {
        if (group.length && (group.length === IMAGES || bytes + result.file.size > BYTES)) {
          yield group;
          group = [];
          bytes = 0;
        }
        group.push(result);
        bytes += result.file.size;
      }
      if (group.length) yield group;
    }

    /** What the model says of each file, in order: {probabilities} or {error: {message}}. */
    async classify(files, model, signal) {
      const form = new FormData();
      for (const file of files) form.append("image", file, file.name);
      try {
        const answer = await this.#ask(`v1/predict?${this.#query(model)}`, { method: "POST", body: form, signal });
        return answer.predictions;
      } catch (error) {
        // The others may be right. Without an answer, a token, the model or time for it, none of them would be.
        if (!(error instanceof Refused) || [0, 401, 404, ...BUSY].includes(error.status)) throw error;
        if (files.length === 1) return [{ error: { message: error.message } }];
        const answers = [];
        for (const file of files) answers.push(...await this.classify([file], model, signal));
        return answers;
      }
    }

    /** Address of a picture of the file under its heatmap. */
    async heatmap(file, model, signal) {
      const form = new FormData();
      form.append("image", file, file.name);
      const options = { method: "POST", body: form, signal };
      const answer = await this.#ask(`v1/predict?explain=true&${this.#query(model)}`, options);
      return `data:image/png;base64,${answer.predictions[0].heatmap}`;
    }

    #query(model) {
      return new URLSearchParams({ model: model.name, version: model.version });
    }

    async #ask(path, options) {
      for (let tries = 1; ; tries += 1) {
        try {
          return await this.#askOnce(path, options);
        } catch (error) {
          if (!BUSY.includes(error.status) || tries === TRIES) throw error;
          await wait(error.seconds, options.signal);
        }
      }
    }

    async #askOnce(path, options) {
      const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
      let response;
      try {
        response = await fetch(this.base + path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
      } catch (error) {
        options.signal?.throwIfAborted();
        throw new Refused(0, "the server does not answer");
      }
      if (response.ok) return response.json();
      const text = await response.text();
      let message = `the server answers ${response.status}`;
      try {
        message = JSON.parse(text).error.message;
      } catch { /* of a proxy */ }
      const asked = Number(response.headers.get("Retry-After"));
      throw new Refused(response.status, message, Math.min(SECONDS, asked > 0 ? asked : 1));
    }
  }

  globalThis.xtrain = { ...globalThis.xtrain, backend: new Server() };
})();
