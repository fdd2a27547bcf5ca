// What is classified by which model. Answers belong to one file of a model: whatever else answers, they are dropped.
"use strict";

(function () {
  const REPLACED = 3; // times in a row that the model may be another one

  class Session {
    /**
     * @param backend what classifies: `models`, `card`, `groups`, `classify`, `heatmap`
     * @param changed called when there is something new to show; with true when it cannot wait
     * @param failed called with an error that stopped the run, or null when it no longer counts
     */
    constructor(backend, changed, failed) {
      this.backend = backend;
      this.changed = changed;
      this.failed = failed;
      this.models = []; // {name, version, sha256}
      this.chosen = null; // one of them
      this.card = null; // of the chosen one; null while it is read
      this.answeredBy = null; // SHA-256 of the file whose answers the results hold
      this.replaced = 0; // times in a row that another file answered
      this.results = [];
      this.running = null; // the AbortController of the run under way
    }

    /** Ask which models answer, and go on with the one that was chosen before if it is the same file. */
    async open() {
      try {
        const { default: standard, models } = await this.backend.models();
        this.models = models;
        const same = models.find(({ name, version }) => name === this.chosen?.name && version === this.chosen?.version);
        // Of the default one the last version answers, as where nobody says which.
        await this.choose(same ?? models.findLast(({ name }) => name === standard) ?? models[0]);
      } catch (error) {
        this.#fail(error);
      }
    }

    /** Let another model answer, from the first image on. */
    async choose(model) {
      this.stop();
      this.chosen = model;
      this.card = null;
      this.#keepAnswersOf(model.sha256);
      this.changed(true);
      try {
        const card = await this.backend.card(model);
        if (this.chosen !== model) return; // another one was chosen meanwhile
        this.#keepAnswersOf(card.sha256);
        this.card = card;
        this.failed(null);
        this.changed(true);
        this.run();
      } catch (error) {
        if (this.chosen === model) this.#fail(error);
      }
    }

    add(files) {
      for (const { file, path } of files) {
        this.results.push({ file, path, name: file.name, url: URL.createObjectURL(file) });
      }
      this.changed(true);
      this.run();
    }

    /** Classify what waits, until nothing does; a run under way goes on with what was added. */
    async run() {
      if (this.running) return;
      if (!this.card) { // it could not be read the last time
        if (this.chosen && this.waiting().length) await this.open();
        return;
      }
      const controller = this.running = new AbortController();
      this.failed(null);
      this.changed(true);
      try {
        for (let waiting = this.waiting(); waiting.length; waiting = this.waiting()) {
          const groups = this.backend.groups(waiting);
          const work = async () => {
            for (const group of groups) await this.#classify(group, controller.signal); // each takes the next one
          };
          await Promise.all(Array.from({ length: this.backend.parallel }, work));
        }
      } catch (error) {
        controller.abort(); // the others'
        if (this.running === controller) this.#fail(error);
      }
      if (this.running !== controller) return; // stopped
      this.running = null;
      this.changed(true);
    }

    async #classify(group, signal) {
      const answers = await this.backend.classify(group.map(({ file }) => file), this.card, signal);
      signal.throwIfAborted();
      this.replaced = 0;
      group.forEach((result, index) => {
        ({ probabilities: result.probabilities, error: result.error } = answers[index]);
      });
      this.changed(false);
    }

    stop() {
      this.running?.abort();
      this.running = null;
    }

    clear() {
      this.stop();
      for (const { url } of this.results) URL.revokeObjectURL(url);
      this.results = [];
      this.failed(null);
      this.changed(true);
    }

    waiting() {
      return this.results.filter((result) => !result.probabilities && !result.error);
    }

    /** Address of the result's image under its heatmap. */
    heatmap(result) {
      result.heatmap ??= this.backend.heatmap(result.file, this.card).catch((error) => {
        result.heatmap = undefined;
        throw error;
      });
      return result.heatmap;
    }

    #keepAnswersOf(sha256) {
      if (this.answeredBy === sha256) return;
      this.answeredBy = sha256;
      for (const result of this.results) {
        result.probabilities = result.error = result.heatmap = undefined;
      }
    }

    #fail(error) {
      if (error.name === "AbortError") return;
      if (error.name === "ModelChanged") { // the file was replaced: all is classified anew
        this.stop();
        this.replaced += 1;
        if (this.replaced <= REPLACED) {
          this.open();
          return;
        }
        this.replaced = 0;
        error.message = "servers with different models answer by turns; wait until all have the new one";
      }
      this.failed(error);
      this.changed(true);
    }
  }

  globalThis.xtrain = { ...globalThis.xtrain, Session };
})();
