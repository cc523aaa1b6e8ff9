// Walk: two finds, of the shelf or of the dice, and how far on the way between them.

import * as api from "../lib/api.js";
import { h, options } from "../lib/dom.js";

/** `ends()` answers both finds, `share` how much of the second; `throws` are those of the dice. */
export function walkBox({ onchange, throws }) {
  const selects = ["From", "To"].map((label) => h("select", { "aria-label": label }));
  const pictures = selects.map(() => h("img", { alt: "", class: "end", hidden: true }));
  const given = [];
  let finds = [];
  const way = h("input", { type: "range", min: 0, max: 100, value: 50, step: 1, id: "walk-way" });
  way.addEventListener("input", onchange);
  for (const select of selects) {
    select.addEventListener("change", () => {
      select.dataset.chosen = "yes";
      onchange();
    });
  }

  function choices() {
    const all = [...given];
    for (const one of finds) {
      all.push({
        text: one.title,
        ref: one.num_concepts > 1 ? { run: one.id, index: 0 } : { run: one.id },
        url: one.cover,
      });
    }
    for (const one of throws) all.push({ text: `Throw ${one.seed} (${one.law})`, ref: { of: "dream", ...one } });
    return [...new Map(all.map((one) => [JSON.stringify(one.ref), one]))].map(([key, one]) => ({ key, ...one }));
  }
  function fill() {
    const all = choices();
    selects.forEach((select, i) => {
      const before = select.value;
      select.replaceChildren(
        ...options(all.length ? all.map((one) => [one.key, one.text]) : [["", "nothing found yet"]]),
      );
      if (all.some((one) => one.key === before)) select.value = before;
      else if (all.length) select.value = all[Math.min(i, all.length - 1)].key;
    });
    const [first, second] = selects;
    if (!second.dataset.chosen && second.value === first.value && all.length > 1) {
      second.value = all.find((one) => one.key !== first.value).key;
    }
  }
  const ends = () => {
    const all = choices();
    return selects.map((select) => all.find((one) => one.key === select.value) ?? null);
  };
  function paint() {
    ends().forEach((one, i) => {
      pictures[i].hidden = !one?.url;
      if (one?.url) pictures[i].src = one.url;
    });
    way.setAttribute("aria-valuetext", `${way.value} percent of the second`);
  }
  async function load() {
    const answer = await api.runs({ limit: 60 });
    // what an exploration learned is mostly no single token, and those have no way between them
    finds = answer.runs.filter((one) => one.num_concepts > 0 && one.verb !== "explore");
    fill();
    onchange();
  }
  /** Take a find that was handed over: as the first end, the next as the second. */
  function take(find) {
    given.unshift(find);
    fill();
    const select = selects[given.length % 2 === 1 ? 0 : 1];
    select.value = JSON.stringify(find.ref);
    select.dataset.chosen = "yes";
    return select.getAttribute("aria-label");
  }
  const place = (i, label) =>
    h("div", { class: "field" }, h("span", { class: "label" }, label), selects[i], pictures[i]);
  const el = h(
    "section",
    { class: "stack", "aria-label": "Walk" },
    h("div", { class: "ends" }, place(0, "From"), place(1, "To")),
    h("div", { class: "field" }, h("label", { for: way.id }, "How far on the way"), way),
  );
  return {
    el,
    ends,
    fill,
    paint,
    load,
    take,
    get share() {
      return Number(way.value) / 100;
    },
  };
}
