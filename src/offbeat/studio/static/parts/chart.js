// What the map and the curve share: sizes, colours of the theme, and when to draw again.

import { h } from "../lib/dom.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";

export { uPlot };

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** An axis in the theme's colours. */
export const axis = (label, more = {}) => ({
  label,
  labelSize: 20,
  labelFont: "12px system-ui, sans-serif",
  font: "11px system-ui, sans-serif",
  size: 40,
  stroke: () => colour("ink-2"),
  grid: { stroke: () => colour("rule"), width: 1 },
  ticks: { stroke: () => colour("rule"), width: 1, size: 4 },
  ...more,
});

/** A box that keeps a chart as wide as itself; made when first seen, for it needs a width. */
export function chartBox({ make, height, label, role = "img" }) {
  const el = h("div", { class: "chart", role, "aria-label": label });
  let plot = null;
  const tall = () => (typeof height === "function" ? height(el.clientWidth) : height);
  const seen = new ResizeObserver(() => {
    if (!el.clientWidth) return;
    if (!plot) plot = make(el, { width: el.clientWidth, height: tall() });
    else if (plot.width !== el.clientWidth) plot.setSize({ width: el.clientWidth, height: tall() });
  });
  seen.observe(el);
  const again = () => plot?.redraw(false, true);
  addEventListener("themechange", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  return {
    el,
    get plot() {
      return plot;
    },
  };
}

/** A table of the same, for whoever cannot see a chart. */
export function table(caption, heads, rows) {
  return h(
    "table",
    {},
    h("caption", { class: "unseen" }, caption),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        heads.map((head) => h("th", { scope: "col" }, head)),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map((row) =>
        h(
          "tr",
          {},
          row.map((cell, i) => (i ? h("td", {}, cell) : h("th", { scope: "row" }, cell))),
        ),
      ),
    ),
  );
}
