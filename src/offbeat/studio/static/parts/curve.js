// The curve: how far from the ordinary, step by step, with what the judge said.

import { h } from "../lib/dom.js";
import { MARKS, number } from "../lib/format.js";
import { axis, chartBox, colour, table, uPlot } from "./chart.js";

/** `set(curve)`, `add(row)`: rows by step, of one trial or several after each other. */
export function curveChart() {
  let data = null;
  const unit = () => data?.ordinary_distance || 1; // of ordinary samples
  const scaled = (value) => (typeof value === "number" ? value / unit() : null);
  const box = chartBox({
    label: "How far from the ordinary, by step",
    height: (width) => Math.round(Math.min(Math.max(width * 0.5, 200), 320)),
    make: (el, size) =>
      new uPlot(
        {
          ...size,
          legend: { show: false },
          cursor: { show: false },
          scales: {
            x: { time: false },
            y: {
              range: (u, low, high) => [
                Math.max(0, Math.min(low, data?.ordinary_distance ? 1 : low) - 0.2),
                Math.max(high, (data?.target_distance ?? 0) / unit()) + 0.2,
              ],
            },
          },
          axes: [axis("step"), axis("times as far as ordinary", { space: 40 })],
          series: [
            {},
            { label: "distance", stroke: () => colour("accent"), width: 2, spanGaps: true, points: { show: false } },
            { label: "10 %", stroke: () => colour("accent-soft"), width: 1, spanGaps: true, points: { show: false } },
            { label: "90 %", stroke: () => colour("accent-soft"), width: 1, spanGaps: true, points: { show: false } },
          ],
          bands: [{ series: [3, 2], fill: () => colour("lasso") }],
          hooks: { draw: [lines] },
        },
        columns(),
        el,
      ),
  });

  function lines(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    for (const [value, text] of [
      [data?.target_distance, "target"],
      [data?.ordinary_distance, "ordinary"],
    ]) {
      if (typeof value !== "number") continue;
      const y = u.valToPos(value / unit(), "y", true);
      ctx.strokeStyle = ctx.fillStyle = colour("ink-2");
      ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.fillText(text, bbox.left + 4 * devicePixelRatio, y - 4 * devicePixelRatio);
    }
    ctx.textAlign = "center";
    ctx.font = `700 ${13 * devicePixelRatio}px system-ui, sans-serif`;
    for (const row of data?.rows ?? []) {
      if (!row.verdict) continue;
      ctx.fillStyle = colour(row.verdict.answer === "no" ? "bad" : row.verdict.answer === "yes" ? "good" : "ink-2");
      ctx.fillText(
        MARKS[row.verdict.answer] ?? "?",
        u.valToPos(row.step, "x", true),
        bbox.top + bbox.height - 6 * devicePixelRatio,
      );
    }
    ctx.restore();
  }
  function columns() {
    const rows = shownRows();
    return [
      rows.map((row) => row.step),
      ...["distance", "distance_p10", "distance_p90"].map((name) => rows.map((row) => scaled(row[name]))),
    ];
  }
  // x must grow: of several trials, the newest is drawn
  function shownRows() {
    const rows = data?.rows ?? [];
    const trial = rows[rows.length - 1]?.trial;
    return rows.filter((row) => row.trial === trial);
  }
  let due = 0;
  function draw() {
    // many readings a second: once per frame is enough
    cancelAnimationFrame(due);
    due = requestAnimationFrame(() => box.plot?.setData(columns()));
  }
  const details = h("details", {}, h("summary", {}, "The curve as a table"));
  details.addEventListener("toggle", () => {
    details.querySelector("table")?.remove();
    if (!details.open) return;
    const rows = data?.rows ?? [];
    const every = Math.max(1, Math.ceil(rows.length / 60));
    details.append(
      table(
        "Distance by step",
        ["Step", "Times as far as ordinary", "Quantile", "Judge"],
        rows
          .filter((row, i) => i % every === 0 || row.verdict)
          .map((row) => [
            String(row.step),
            number(scaled(row.distance), 2),
            number(row.quantile, 3),
            row.verdict?.answer ?? "",
          ]),
      ),
    );
  });
  const el = h(
    "section",
    { class: "panel curve", "aria-label": "Curve" },
    h("div", { class: "panel-head" }, h("h3", {}, "Curve")),
    box.el,
    h(
      "p",
      { class: "hint" },
      "How far the samples are in the checkpoint's own space; 1 is as far as ordinary ones. Line: at each step. Band: the middle 80 % of fresh samples. ✓ still the subject, ✕ no more, ? no answer.",
    ),
    details,
  );

  return {
    el,
    set(curve) {
      data =
        (curve && curve.rows.some((row) => typeof row.distance === "number")) || curve?.target_distance ? curve : null;
      el.hidden = !data;
      draw();
    },
    add(row) {
      data ??= { target_distance: null, ordinary_distance: null, rows: [] };
      el.hidden = false;
      const trial = row.trial ?? 0;
      const known = data.rows.find((one) => one.step === row.step && (one.trial ?? 0) === trial);
      if (known)
        for (const [name, value] of Object.entries(row)) {
          if (value !== null && value !== undefined) known[name] = value;
        }
      else {
        const before = data.rows.findIndex((one) => (one.trial ?? 0) === trial && one.step > row.step);
        data.rows.splice(before < 0 ? data.rows.length : before, 0, { ...row, trial });
      }
      draw();
    },
  };
}
