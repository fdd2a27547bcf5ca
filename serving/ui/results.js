// The results of many images: which are shown, in which order, and as CSV. Nothing here touches the page.
//
// A result is {name, path, probabilities} or {name, path, error: {message}}, or neither while it waits.
"use strict";

(function () {
  /** Indices of the classes, the most probable one first. */
  function ranked(probabilities) {
    return probabilities.map((_, index) => index).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  }

  /** One of "waiting", "error", "unsure" (the largest probability is below the threshold) and "answered". */
  function state(result, threshold) {
    if (result.error) return "error";
    if (!result.probabilities) return "waiting";
    return result.probabilities[ranked(result.probabilities)[0]] < threshold ? "unsure" : "answered";
  }

  /** Largest probability; -1 where there is none, so that those come last. */
  function confidence(result) {
    return result.probabilities ? Math.max(...result.probabilities) : -1;
  }

  const ORDERS = {
    added: null,
    name: (a, b) => a.path.localeCompare(b.path, undefined, { numeric: true }),
    surest: (a, b) => confidence(b) - confidence(a),
    "least sure": (a, b) => confidence(a) - confidence(b),
    class: (a, b) => best(a) - best(b) || confidence(b) - confidence(a),
  };

  function best(result) {
    return result.probabilities ? ranked(result.probabilities)[0] : Infinity;
  }

  /**
   * Results that pass the filter, in the order asked for.
   *
   * @param filter {classes: index or null, states: state or null, low, high: bounds of the confidence, order,
   *     threshold}
   */
  function select(results, filter) {
    const shown = results.filter((result) => {
      if (filter.state && state(result, filter.threshold) !== filter.state) return false;
      if (filter.class !== null && best(result) !== filter.class) return false;
      if (!result.probabilities) return filter.low <= 0 && filter.class === null;
      const value = confidence(result);
      return filter.low <= value && value <= filter.high;
    });
    const order = ORDERS[filter.order];
    return order ? shown.sort(order) : shown; // sort is stable, and filter made a new array
  }

  /** How many results have each class as their best one, and how many are in each state. */
  function counts(results, classes, threshold) {
    const found = { classes: classes.map(() => 0), waiting: 0, error: 0, unsure: 0, answered: 0 };
    for (const result of results) {
      const is = state(result, threshold);
      found[is] += 1;
      if (result.probabilities) found.classes[best(result)] += 1; // sure or not: what the filter shows
    }
    return found;
  }

  /** A field of CSV. What a spreadsheet would take for a formula gets an apostrophe, so that it is text. */
  function quoted(value) {
    const text = typeof value === "string" ? value.replace(/^[=+\-@\t\r]/, "'$&") : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  /**
   * The results as CSV (RFC 4180), a line each, with all probabilities and the model that gave them.
   *
   * @param card of the model; classes are counted as in xscore.
   * @param threshold below which a result is unsure
   */
  function csv(results, card, threshold) {
    const { classes } = card, model = [card.name, card.version, card.sha256];
    const head = ["FILE", "CLASS", "LABEL", "PROBABILITY", "UNSURE", "ERROR", "MODEL", "VERSION", "SHA256"];
    const lines = [[...head, ...classes.map((name) => `P(${name})`)]];
    for (const result of results) {
      const is = state(result, threshold);
      if (is === "error" || is === "waiting") {
        const reason = is === "error" ? result.error.message : "not classified";
        lines.push([result.path, "", "", "", "", reason, ...model, ...classes.map(() => "")]);
      } else {
        const top = best(result), { probabilities } = result;
        lines.push([result.path, top, classes[top], probabilities[top], is === "unsure", "", ...model, ...probabilities]);
      }
    }
    return lines.map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
  }

  globalThis.xtrain = { ...globalThis.xtrain, results: { best, confidence, counts, csv, orders: Object.keys(ORDERS), ranked, select, state } };
})();
