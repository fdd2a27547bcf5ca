// Classification by the server that sent this page.
"use strict";

(function () {
  const IMAGES = 16; // of one request
  const BYTES = 4 * 1024 * 1024; // of one request; a larger image goes alone
  const TRIES = 6; // of a request that the server was too busy for
  const BUSY = [429, 502, 503, 504];
  const IMAGES_FAULT = [400, 413, 415, 422];
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

    /**
     * What the model says of each file, in order: {probabilities} or {error: {message}}.
     *
     * @param card of the model that must answer; of another file of the same name an answer is an error.
     */
    async classify(files, card, signal) {
      try {
        const { predictions } = await this.#predict(files, card, "", signal);
        return predictions;
      } catch (error) {
        if (error.status === 0) return await this.#withoutUnreadable(files, card, signal, error);
        if (!IMAGES_FAULT.includes(error.status)) throw error; // all others would get it as well
        if (files.length === 1) return [{ error: { message: error.message } }];
        const answers = [];
        for (const file of files) answers.push(...await this.classify([file], card, signal));
        return answers;
      }
    }

    /** Address of a picture of the file under its heatmap. */
    async heatmap(file, card, signal) {
      const { predictions } = await this.#predict([file], card, "explain=true&", signal);
      return `data:image/png;base64,${predictions[0].heatmap}`;
    }

    async #predict(files, card, options, signal) {
      const form = new FormData();
      for (const file of files) form.append("image", file, file.name);
      const answer = await this.#ask(`v1/predict?${options}${this.#query(card)}`, { method: "POST", body: form, signal });
      if (answer.sha256 !== card.sha256) {
        throw Object.assign(new Error("the model was replaced; it is read again"), { name: "ModelChanged" });
      }
      return answer;
    }

    /** A file that has changed since it was chosen cannot be sent, and looks like a server that does not answer. */
    async #withoutUnreadable(files, card, signal, error) {
      const readable = await Promise.all(files.map((file) => file.slice(0, 1).arrayBuffer().then(() => true, () => false)));
      if (!readable.includes(false)) throw error;
      const sent = files.filter((_, index) => readable[index]);
      const answers = sent.length ? await this.classify(sent, card, signal) : [];
      const gone = { error: { message: "the file has changed or is gone; add it again" } };
      return readable.map((is) => (is ? answers.shift() : gone));
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
      if (!/^[\x20-\x7e]*$/.test(this.token)) throw new Refused(401, "the token has letters that no token has");
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
