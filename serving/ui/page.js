// The page: what is classified, what is shown of it, and what a person can do.
"use strict";

(function () {
  const { backend, cards, files, results: rules } = globalThis.xtrain;
  const PAGE = 120; // results that are added to the list at a time
  const HOVER = 200; // milliseconds over an image before its heatmap is asked for
  const get = (id) => document.getElementById(id);
  const say = (text) => { get("status").textContent = text; };
  const complain = (text) => { get("failure").textContent = text; };

  let models = [], card = null, results = [], shown = [], length = PAGE;
  let running = null; // the AbortController of the run that is under way
  let active = 0; // position in the list that the keyboard is at

  // ---- the model

  function model() {
    return models[get("model").selectedIndex];
  }

  async function start() {
    try {
      const answer = await backend.models();
      models = answer.models;
      const names = models.map(({ name, version }) => new Option(`${name}, version ${version}`));
      get("model").replaceChildren(...names);
      // Of the default one the last version answers, as where nobody says which.
      get("model").selectedIndex = Math.max(0, models.findLastIndex(({ name }) => name === answer.default));
      get("model").disabled = models.length < 2;
      get("access").hidden = true;
      complain("");
      await readCard();
    } catch (error) {
      fail(error);
    }
  }

  async function readCard() {
    card = await backend.card(model());
    get("card").replaceChildren(cards.modelCard(card));
    const heatmap = card.explain ? " Point at an image to see where the evidence lies." : "";
    get("where").textContent = backend.where + heatmap;
    get("class").replaceChildren(new Option("all", ""), ...card.classes.map((name, index) => new Option(name, index)));
    if (results.some((result) => !result.probabilities)) run();
  }

  async function changeModel() {
    running?.abort();
    running = null;
    for (const result of results) {
      result.probabilities = result.error = result.heatmap = result.looks = undefined;
    }
    try {
      await readCard();
    } catch (error) {
      fail(error);
    }
    show();
  }

  function fail(error) {
    if (error.name === "AbortError") return;
    if (error.status === 401) {
      get("access").hidden = false;
      get("token").focus();
    }
    complain(`${error.message}.`);
  }

  // ---- the run

  function add({ found, skipped }) {
    complain(skipped ? `${skipped} ${skipped === 1 ? "file is no image" : "files are no images"} and left out.` : "");
    for (const { file, path } of found) {
      results.push({ file, path, name: file.name, url: URL.createObjectURL(file) });
    }
    show();
    run();
  }

  /** Classify what waits, until nothing does; called while a run is under way, that one goes on with the new ones. */
  async function run() {
    if (running || !card) return;
    const controller = running = new AbortController();
    const { signal } = controller;
    get("run").hidden = false;
    try {
      for (let waiting = open(); waiting.length; waiting = open()) {
        const groups = backend.groups(waiting);
        const worker = async () => {
          for (const group of groups) { // shared: each worker takes the next one
            const answers = await backend.classify(group.map(({ file }) => file), model(), signal);
            if (signal.aborted) return;
            group.forEach((result, index) => {
              ({ probabilities: result.probabilities, error: result.error } = answers[index]);
            });
            progress();
          }
        };
        await Promise.all(Array.from({ length: backend.parallel }, worker));
      }
    } catch (error) {
      controller.abort();
      if (running === controller) fail(error);
    }
    if (running !== controller) return; // stopped, or another model was chosen
    running = null;
    get("run").hidden = true;
    show();
  }

  function open() {
    return results.filter((result) => !result.probabilities && !result.error);
  }

  let drawn = 0;
  function progress() {
    const now = performance.now();
    if (now - drawn < 250) return; // drawing 10,000 results a batch would be most of the work
    drawn = now;
    show();
  }

  function stop() {
    running?.abort();
    running = null;
    get("run").hidden = true;
    show();
  }

  // ---- what is shown

  function filter() {
    const chosen = get("class").value;
    const bound = (id, otherwise) => (get(id).value === "" ? otherwise : Number(get(id).value));
    return {
      class: chosen === "" ? null : Number(chosen),
      state: get("state").value || null,
      low: bound("low", 0),
      high: bound("high", 1),
      order: get("order").value,
      threshold: Number(get("threshold").value),
    };
  }

  function show() {
    const wanted = filter(), classes = card?.classes ?? [];
    get("threshold-value").textContent = wanted.threshold.toFixed(2);
    get("tools").hidden = results.length === 0;
    shown = rules.select(results, wanted);
    active = Math.min(active, Math.max(0, Math.min(length, shown.length) - 1));
    draw(shown.slice(0, length).map((result, index) => {
      const looks = rules.state(result, wanted.threshold);
      if (result.looks !== looks) { // else the item is as it was, with its picture decoded
        result.item = cards.resultItem(result, classes, wanted.threshold);
        result.looks = looks;
      }
      result.item.tabIndex = index === active ? 0 : -1;
      return result.item;
    }));
    const rest = shown.length - length;
    get("more").hidden = rest <= 0;
    get("more").textContent = `Show ${Math.min(rest, PAGE)} more of ${rest}`;
    tell(rules.counts(results, classes, wanted.threshold), classes);
  }

  function draw(items) {
    const list = get("results");
    if (items.length === list.children.length && items.every((item, index) => item === list.children[index])) return;
    const focused = list.contains(document.activeElement);
    list.replaceChildren(...items);
    if (focused) list.children[active]?.focus({ preventScroll: true });
  }

  function tell(counts, classes) {
    const done = results.length - counts.waiting;
    get("progress").max = Math.max(1, results.length);
    get("progress").value = done;
    get("download").disabled = done === 0;
    get("paused").hidden = running !== null || counts.waiting === 0;
    if (!results.length) return say("");
    const parts = [`${done} of ${results.length} classified`];
    if (counts.unsure) parts.push(`${counts.unsure} not sure`);
    if (counts.error) parts.push(`${counts.error} with an error`);
    if (shown.length < results.length) parts.push(`${shown.length} shown`);
    say(`${parts.join(", ")}.`);
    classes.forEach((name, index) => {
      get("class").options[index + 1].textContent = `${name} (${counts.classes[index]})`;
    });
  }

  function clear() {
    stop();
    for (const { url } of results) URL.revokeObjectURL(url);
    results = [];
    length = PAGE;
    complain("");
    show();
    get("files").focus();
  }

  function download() {
    const text = rules.csv(results, card.classes, filter().threshold);
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    cards.element("a", { href: url, download: "predictions.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  // ---- one result

  function resultOf(target) {
    const item = target.closest(".result");
    return item && shown[[...get("results").children].indexOf(item)];
  }

  /** Lay the heatmap over a picture while it is pointed at or has the focus. */
  async function explain(result, picture) {
    if (!card?.explain || !result.probabilities || picture.querySelector(".heatmap")) return;
    try {
      result.heatmap ??= backend.heatmap(result.file, model());
      const image = cards.element("img", { className: "heatmap", src: await result.heatmap });
      image.alt = "heatmap of the evidence for the predicted class";
      if (picture.isConnected && picture.matches(":hover, :focus-within, .result:focus > *, dialog *")) picture.append(image);
    } catch (error) {
      result.heatmap = undefined;
      fail(error);
    }
  }

  let hover = 0;
  function point(event) {
    const result = resultOf(event.target);
    if (!result) return;
    clearTimeout(hover);
    hover = setTimeout(() => explain(result, result.item.firstChild), HOVER);
  }

  function leave(event) {
    clearTimeout(hover);
    const item = event.target.closest(".result");
    if (item && !item.contains(event.relatedTarget)) item.querySelector(".heatmap")?.remove();
  }

  function detail(result) {
    const body = [];
    if (result.url) {
      const image = cards.element("img", { src: result.url, alt: "" });
      image.addEventListener("error", () => image.replaceWith("no preview"), { once: true });
      body.push(cards.element("div", { className: "picture" }, image));
    }
    if (result.error) body.push(cards.element("p", { textContent: result.error.message }));
    if (result.probabilities) body.push(cards.bars(result.probabilities, card.classes));
    get("detail-title").textContent = result.path;
    get("detail-body").replaceChildren(...body);
    get("detail").showModal();
    if (result.url) explain(result, body[0]);
  }

  function move(event) {
    if (!event.target.matches(".result")) return;
    const items = [...get("results").children], here = items.indexOf(event.target);
    const columns = Math.max(1, items.filter(({ offsetTop }) => offsetTop === items[0].offsetTop).length);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -here, End: items.length };
    if (event.key === "Enter" || event.key === " ") {
      detail(shown[here]);
    } else if (event.key in steps) {
      active = Math.max(0, Math.min(items.length - 1, here + steps[event.key]));
      items[here].tabIndex = -1;
      items[active].tabIndex = 0;
      items[active].focus();
    } else {
      return;
    }
    event.preventDefault();
  }

  // ---- what a person does

  const on = (id, type, act) => get(id).addEventListener(type, act);
  const STATES = { "": "all", answered: "sure", unsure: "not sure", error: "errors", waiting: "waiting" };
  get("state").replaceChildren(...Object.entries(STATES).map(([value, name]) => new Option(name, value)));
  get("order").replaceChildren(...rules.orders.map((name) => new Option(name)));

  on("model", "change", changeModel);
  on("access", "submit", (event) => {
    event.preventDefault();
    backend.token = get("token").value;
    start();
  });
  for (const id of ["files", "folder"]) {
    on(id, "change", () => {
      add(files.chosen(get(id).files));
      get(id).value = ""; // so that the same ones can be chosen again
    });
  }
  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // or the browser would open the file in place of the page
    get("drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) get("drop").classList.remove("over");
  });
  async function take(event, transfer) {
    if (![...(transfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    try {
      add(await files.transferred(transfer));
    } catch (error) {
      complain(`The files cannot be read (${error.message}).`);
    }
  }
  document.addEventListener("drop", (event) => {
    get("drop").classList.remove("over");
    take(event, event.dataTransfer);
  });
  document.addEventListener("paste", (event) => take(event, event.clipboardData));
  on("stop", "click", stop);
  on("resume", "click", run);
  on("clear", "click", clear);
  on("download", "click", download);
  on("more", "click", () => { length += PAGE; show(); });
  for (const id of ["state", "class", "order", "low", "high", "threshold"]) {
    on(id, "input", () => { length = PAGE; show(); });
  }
  on("results", "click", (event) => { const result = resultOf(event.target); if (result) detail(result); });
  on("results", "keydown", move);
  for (const type of ["mouseover", "focusin"]) on("results", type, point);
  for (const type of ["mouseout", "focusout"]) on("results", type, leave);

  start();
})();
