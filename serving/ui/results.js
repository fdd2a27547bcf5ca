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

  /** How many answered results each class has, and how many are in each of the other states. */
  function counts(results, classes, threshold) {
    const found = { classes: classes.map(() => 0), waiting: 0, error: 0, unsure: 0, answered: 0 };
    for (const result of results) {
      const is = state(result, threshold);
      found[is] += 1;
      if (is === "answered") found.classes[best(result)] += 1;
    }
    return found;
  }

  function quoted(value) {
    const text = String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  /** The results as CSV (RFC 4180), a line each, with all probabilities; whole numbers of the class as in xscore. */
  function csv(results, classes, threshold) {
    const head = ["FILE", "CLASS", "LABEL", "PROBABILITY", "UNSURE", "ERROR", ...classes.map((name) => `P(${name})`)];
    const lines = [head.map(quoted).join(",")];
    for (const result of results) {
      const empty = classes.map(() => "");
      if (result.error) {
        lines.push([result.path, "", "", "", "", result.error.message, ...empty].map(quoted).join(","));
      } else if (result.probabilities) {
        const top = best(result);
        const unsure = state(result, threshold) === "unsure";
        const values = [result.path, top, classes[top], result.probabilities[top], unsure, "", ...result.probabilities];
        lines.push(values.map(quoted).join(","));
      }
    }
    return lines.join("\r\n") + "\r\n";
  }

  globalThis.xtrain = { ...globalThis.xtrain, results: { best, confidence, counts, csv, orders: Object.keys(ORDERS), ranked, select, state } };
})();
