// The page: what is shown of the session, and what a person can do.
"use strict";

(function () {
  const { backend, cards, files, results: rules, Session } = globalThis.xtrain;
  const PAGE = 120; // results that are added to the list at a time
  const HOVER = 200; // milliseconds over an image before its heatmap is asked for
  const PAUSE = 250; // milliseconds between two drawings of a run; 10,000 results a batch would be most of the work
  const get = (id) => document.getElementById(id);
  const complain = (text) => { get("failure").textContent = text; };

  const session = new Session(backend, changed, failed);
  let shown = [], length = PAGE;
  let current = null; // the result that the keyboard is at
  let drawn = 0;

  function changed(now) {
    if (!now && performance.now() - drawn < PAUSE) return;
    drawn = performance.now();
    show();
  }

  function failed(error) {
    complain(error ? `${error.message}.` : "");
    get("access").hidden = error?.status !== 401;
    if (error?.status === 401) get("token").focus();
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
    showModel();
    const wanted = filter(), { results } = session, classes = session.card?.classes ?? [];
    get("threshold-value").textContent = wanted.threshold.toFixed(2);
    get("tools").hidden = results.length === 0;
    shown = rules.select(results, wanted);
    showList(shown.slice(0, length), classes, wanted.threshold);
    const rest = shown.length - length;
    get("more").hidden = rest <= 0;
    get("more").textContent = `Show ${Math.min(rest, PAGE)} more of ${rest}`;
    showCounts(rules.counts(results, classes, wanted.threshold), classes);
  }

  let card = null, models = null; // that are on the page
  function showModel() {
    if (models !== session.models) {
      models = session.models;
      get("model").replaceChildren(...models.map(({ name, version }) => new Option(`${name}, version ${version}`)));
      get("model").disabled = models.length < 2;
    }
    get("model").selectedIndex = models.indexOf(session.chosen);
    if (card === session.card) return;
    card = session.card;
    get("card").replaceChildren(card ? cards.modelCard(card) : cards.element("p", { textContent: "Reading it …" }));
    get("where").textContent = backend.where + (card?.explain ? " Point at an image to see where the evidence lies." : "");
    const options = (card?.classes ?? []).map((name, index) => new Option(name, index));
    get("class").replaceChildren(new Option("all", ""), ...options);
  }

  function showList(results, classes, threshold) {
    const items = results.map((result) => {
      const looks = `${rules.state(result, threshold)} ${session.card?.sha256}`;
      if (result.looks !== looks) { // else the item is as it was, with its picture decoded
        result.item = cards.resultItem(result, classes, threshold);
        result.looks = looks;
      }
      return result.item;
    });
    const list = get("results");
    const focused = list.contains(document.activeElement);
    if (items.length !== list.children.length || items.some((item, index) => item !== list.children[index])) {
      list.replaceChildren(...items);
    }
    if (!results.includes(current)) current = results[0] ?? null;
    for (const result of results) result.item.tabIndex = result === current ? 0 : -1;
    if (focused && !list.contains(document.activeElement)) (current?.item ?? get("state")).focus({ preventScroll: true });
  }

  function showCounts(counts, classes) {
    const { results, running } = session, done = results.length - counts.waiting;
    const focused = document.activeElement;
    get("run").hidden = !running;
    get("progress").max = Math.max(1, results.length);
    get("progress").value = done;
    get("download").disabled = done === 0;
    get("paused").hidden = Boolean(running) || counts.waiting === 0;
    // A button that goes takes the focus with it: its counterpart gets it.
    if (focused === get("stop") && !running) (counts.waiting ? get("resume") : get("state")).focus();
    if (focused === get("resume") && running) get("stop").focus();
    const parts = [`${done} of ${results.length} classified`];
    if (counts.unsure) parts.push(`${counts.unsure} not sure`);
    if (counts.error) parts.push(`${counts.error} with an error`);
    if (shown.length < results.length) parts.push(`${shown.length} shown`);
    get("status").textContent = results.length ? `${parts.join(", ")}.` : "";
    classes.forEach((name, index) => {
      get("class").options[index + 1].textContent = `${name} (${counts.classes[index]})`;
    });
  }

  function download() {
    const text = rules.csv(session.results, session.card, filter().threshold);
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    cards.element("a", { href: url, download: "predictions.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  // ---- one result

  function resultOf(target) {
    const item = target.closest(".result");
    return item && shown.find((result) => result.item === item);
  }

  /** Lay the heatmap over a picture, if `wanted` still holds once it has come. */
  async function explain(result, picture, wanted) {
    if (!session.card?.explain || !result.probabilities || picture.querySelector(".heatmap")) return;
    try {
      const image = cards.element("img", { className: "heatmap", src: await session.heatmap(result) });
      image.alt = "heatmap of the evidence for the predicted class";
      if (wanted() && !picture.querySelector(".heatmap")) picture.append(image);
    } catch (error) {
      complain(`${error.message}.`);
    }
  }

  let hover = 0;
  function point(event) {
    const result = resultOf(event.target);
    if (!result) return;
    if (event.type === "focusin") {
      if (current) current.item.tabIndex = -1;
      current = result;
      result.item.tabIndex = 0;
    }
    clearTimeout(hover);
    const { item } = result;
    hover = setTimeout(() => explain(result, item.firstChild, () => item.matches(":hover, :focus")), HOVER);
  }

  function leave(event) {
    clearTimeout(hover);
    const item = event.target.closest(".result");
    if (item && !item.contains(event.relatedTarget)) item.querySelector(".heatmap")?.remove();
  }

  function detail(result) {
    const body = [];
    if (result.url) {
      const picture = cards.picture(result);
      body.push(picture);
      if (session.card?.explain && result.probabilities) {
        const box = cards.element("input", { type: "checkbox" });
        box.addEventListener("change", () => {
          if (box.checked) explain(result, picture, () => box.checked);
          else picture.querySelector(".heatmap")?.remove();
        });
        body.push(cards.element("label", { className: "switch" }, box, " Heatmap"));
      }
    }
    if (result.error) body.push(cards.element("p", { textContent: result.error.message }));
    if (result.probabilities) body.push(cards.bars(result.probabilities, session.card.classes));
    get("detail-title").textContent = result.path;
    get("detail-body").replaceChildren(...body);
    get("detail").showModal();
  }

  function move(event) {
    if (!event.target.matches(".result")) return;
    const items = [...get("results").children], here = items.indexOf(event.target);
    const columns = Math.max(1, items.filter(({ offsetTop }) => offsetTop === items[0].offsetTop).length);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -here, End: items.length };
    if (event.key === "Enter" || event.key === " ") {
      detail(resultOf(event.target));
    } else if (event.key in steps) {
      items[Math.max(0, Math.min(items.length - 1, here + steps[event.key]))].focus();
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

  function add({ found, skipped }) {
    session.add(found);
    const words = skipped === 1 ? "file of the folder is no image and is" : "files of the folder are no images and are";
    get("skipped").textContent = skipped ? `${skipped} ${words} left out.` : "";
  }

  async function take(event, transfer) {
    if (![...(transfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    try {
      add(await files.transferred(transfer));
    } catch (error) {
      complain(`The files cannot be read (${error.message}).`);
    }
  }

  on("model", "change", () => session.choose(session.models[get("model").selectedIndex]));
  on("access", "submit", (event) => {
    event.preventDefault();
    backend.token = get("token").value;
    session.open();
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
  document.addEventListener("drop", (event) => {
    get("drop").classList.remove("over");
    take(event, event.dataTransfer);
  });
  document.addEventListener("paste", (event) => take(event, event.clipboardData));
  on("stop", "click", () => { session.stop(); show(); });
  on("resume", "click", () => session.run());
  on("clear", "click", () => { length = PAGE; session.clear(); get("files").focus(); });
  on("download", "click", download);
  on("more", "click", () => {
    const next = shown[length];
    length += PAGE;
    show();
    next.item.focus();
  });
  for (const id of ["state", "class", "order", "low", "high", "threshold"]) {
    on(id, "input", () => { length = PAGE; show(); });
  }
  on("results", "click", (event) => { const result = resultOf(event.target); if (result) detail(result); });
  on("results", "keydown", move);
  for (const type of ["mouseover", "focusin"]) on("results", type, point);
  for (const type of ["mouseout", "focusout"]) on("results", type, leave);

  session.open();
})();
