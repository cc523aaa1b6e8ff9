// Sliders that always sum to 100: what one gains the others lose, in proportion.

import { h } from "../lib/dom.js";
import { wordInput } from "./words.js";

export const WHOLE = 100;

/** Give `shares[at]` the value `to`; the rest keeps its proportions, whole numbers, sum 100. */
export function rebalance(shares, at, to, held = new Set()) {
  const free = shares.map((_, i) => i).filter((i) => i !== at && !held.has(i));
  const fixed = shares.reduce((sum, share, i) => sum + (i !== at && held.has(i) ? share : 0), 0);
  const room = WHOLE - fixed;
  const result = [...shares];
  result[at] = free.length ? Math.min(Math.max(Math.round(to), 0), room) : room;
  const rest = room - result[at];
  const before = free.reduce((sum, i) => sum + shares[i], 0);
  const exact = free.map((i) => (before ? (shares[i] / before) * rest : rest / free.length));
  const floors = exact.map(Math.floor);
  let missing = rest - floors.reduce((sum, one) => sum + one, 0);
  const order = exact.map((one, k) => [one - floors[k], k]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
  for (const [, k] of order) {
    if (missing-- <= 0) break;
    floors[k] += 1;
  }
  free.forEach((i, k) => {
    result[i] = floors[k];
  });
  return result;
}

/**
 * Rows of a word, a slider and its share. `sources()` answers `[{word, share}]`, shares of 1.
 * `onchange()` comes at every move; `fewest()` rows stay.
 */
export function mixer({ words, onchange, fewest = () => 2, most = 8 }) {
  let rows = [];
  const list = h("div", { class: "mixer", role: "group", "aria-label": "Shares; together always 100 percent" });
  const add = h("button", { type: "button", class: "quiet" }, "+ Another word");
  add.addEventListener("click", () => {
    const unused = words().filter((word) => !rows.some((row) => row.word.value === word));
    set([...values(), { word: unused[Math.floor(Math.random() * unused.length)] ?? "", share: 0 }]);
    const last = rows.length - 1;
    share(last, Math.round(WHOLE / rows.length));
    rows[last].word.focus();
    rows[last].word.select();
  });
  const el = h("div", { class: "stack" }, list, add);

  const values = () => rows.map((row) => ({ word: row.word.value, share: row.share }));
  function share(at, to) {
    const held = new Set(rows.flatMap((row, i) => (row.pin.getAttribute("aria-pressed") === "true" ? [i] : [])));
    held.delete(at);
    const shares = rebalance(
      rows.map((row) => row.share),
      at,
      to,
      held,
    );
    rows.forEach((row, i) => {
      row.share = shares[i];
    });
    paint();
    onchange();
  }
  function paint() {
    for (const row of rows) {
      row.slider.value = String(row.share);
      row.slider.setAttribute("aria-valuetext", `${row.share} percent ${row.word.value}`);
      row.slider.setAttribute("aria-label", `Share of ${row.word.value || "a word"}`);
      row.told.textContent = `${row.share} %`;
      row.pin.setAttribute("aria-label", `Hold the share of ${row.word.value || "a word"}`);
      row.gone.setAttribute("aria-label", `Remove ${row.word.value || "a word"}`);
      row.gone.hidden = rows.length <= fewest();
      row.pin.hidden = rows.length < 3;
    }
    add.hidden = rows.length >= most;
  }
  function set(given) {
    const total = given.reduce((sum, one) => sum + (one.share ?? 0), 0);
    rows = given.map((one) => {
      const row = { share: total ? Math.round(((one.share ?? 0) / total) * WHOLE) : 0 };
      row.word = wordInput(words(), { value: one.word, "aria-label": "Word", required: true });
      row.slider = h("input", { type: "range", min: 0, max: WHOLE, step: 1 });
      row.told = h("output", {});
      row.pin = h(
        "button",
        { type: "button", class: "quiet small pin", "aria-pressed": "false", title: "Hold this share" },
        "hold",
      );
      row.gone = h("button", { type: "button", class: "quiet small", title: "Remove" }, "×");
      row.word.addEventListener("change", () => {
        paint();
        onchange();
      });
      row.slider.addEventListener("input", () => share(rows.indexOf(row), Number(row.slider.value)));
      row.pin.addEventListener("click", () =>
        row.pin.setAttribute("aria-pressed", String(row.pin.getAttribute("aria-pressed") !== "true")),
      );
      row.gone.addEventListener("click", () => {
        const at = rows.indexOf(row);
        set(values().filter((_, i) => i !== at));
        onchange();
        (rows[Math.min(at, rows.length - 1)]?.word ?? add).focus();
      });
      row.el = h("div", { class: "mix-row" }, row.word, row.gone, row.slider, row.told, row.pin);
      return row;
    });
    // rounding may have left it at 99 or 101
    const off = WHOLE - rows.reduce((sum, row) => sum + row.share, 0);
    if (rows.length) rows.reduce((a, b) => (b.share > a.share ? b : a)).share += off;
    list.replaceChildren(...rows.map((row) => row.el));
    paint();
  }
  return {
    el,
    set,
    values,
    share,
    paint,
    sources: () => rows.map((row) => ({ word: row.word.value.trim(), share: row.share / WHOLE })),
    suggest: () => rows.forEach((row) => row.word.suggest(words())),
  };
}
