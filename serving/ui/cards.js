// Elements made of a model card and of a result. Texts of others only ever become text, never HTML.
"use strict";

(function () {
  const { ranked, state } = globalThis.xtrain.results;
  const SHOWN = 3; // classes of a result in the list; the dialog shows all

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function percent(value) {
    return `${(100 * value).toFixed(1)} %`;
  }

  /** A description list of classes with their probabilities and bars, the most probable one first. */
  function bars(probabilities, classes, most = classes.length) {
    const list = element("dl", { className: "bars" });
    for (const index of ranked(probabilities).slice(0, most)) {
      const fill = element("span");
      fill.style.width = `${100 * probabilities[index]}%`;
      const bar = element("dd", { className: "bar", ariaHidden: "true" }, fill);
      const value = element("dd", { textContent: percent(probabilities[index]) });
      list.append(element("div", {}, element("dt", { textContent: classes[index] }), value, bar));
    }
    return list;
  }

  /** The image of a result. */
  function picture(result) {
    const image = element("img", { src: result.url, alt: "", loading: "lazy", decoding: "async", draggable: false });
    image.addEventListener("error", () => image.replaceWith("no preview"), { once: true }); // TIFF, or broken
    return element("div", { className: "picture" }, image);
  }

  /** A result as one item of the list. */
  function resultItem(result, classes, threshold) {
    const is = state(result, threshold);
    const item = element("li", { className: `result ${is}`, tabIndex: -1 }, picture(result));
    item.append(element("p", { className: "name", textContent: result.path, title: result.path }));
    item.append(element("p", { className: "label", textContent: text(result, is, classes) }));
    if (result.probabilities) item.append(bars(result.probabilities, classes, SHOWN));
    return item;
  }

  function text(result, is, classes) {
    if (is === "error") return result.error.message;
    if (is === "waiting") return "waiting";
    const name = classes[ranked(result.probabilities)[0]];
    return is === "unsure" ? `Not sure: ${name}?` : name;
  }

  function entry(list, term, ...values) {
    list.append(element("dt", { textContent: term }), ...values.map((value) => element("dd", {}, value)));
  }

  /** A model card as a description list. */
  function modelCard(card) {
    const list = element("dl");
    entry(list, "Intended use", element("strong", { textContent: card.intended_use }));
    entry(list, "Model", `${card.name}, version ${card.version}`);
    entry(list, "Networks", ...card.members.map(
      ({ architecture, seed, weight }) => `${architecture}, seed ${seed}, weight ${weight.toFixed(2)}`));
    entry(list, "Trained on", `${card.data.name}, ${card.data.protocol} protocol; ${card.data.licence}`);
    entry(list, "Measured", ...card.metrics.map(({ metrics, split, protocol }) => {
      const interval = metrics.accuracy_interval?.map((value) => value.toFixed(4)).join(" to ");
      const range = interval ? ` (95 % interval ${interval})` : "";
      return `accuracy ${metrics.accuracy.toFixed(4)}${range} on the ${split} split, ${protocol} protocol`;
    }));
    const [, height, width] = card.input.shape;
    entry(list, "Takes", `${width} x ${height} pixels, ${card.input.colour}; other sizes are resized to it`);
    const classes = element("ol", { start: 0 });
    classes.append(...card.classes.map((name) => element("li", { textContent: name })));
    entry(list, "Classes", classes);
    if (card.sha256) entry(list, "SHA-256", card.sha256);
    return list;
  }

  globalThis.xtrain = { ...globalThis.xtrain, cards: { bars, element, modelCard, picture, resultItem } };
})();
