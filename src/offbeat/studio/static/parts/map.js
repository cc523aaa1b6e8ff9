// The map: the ordinary as a cloud, where fresh samples are now, and a lasso over both.

import { h, say } from "../lib/dom.js";
import { beyond, number } from "../lib/format.js";
import { chartBox, colour, axis, table, uPlot } from "./chart.js";

const NONE = [[], []];
const columns = (points) => [points.map((one) => one[0]), points.map((one) => one[1])];

export function inside([x, y], region) {
  let odd = false;
  for (let i = 0, j = region.length - 1; i < region.length; j = i++) {
    const [ax, ay] = region[i];
    const [bx, by] = region[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
  }
  return odd;
}

function dots(radius, fill, ring) {
  return (u, series) => {
    const [xs, ys] = u.data[series];
    const path = new Path2D();
    const size = radius * devicePixelRatio;
    for (let i = 0; i < xs.length; i++) {
      const x = u.valToPos(xs[i], "x", true);
      const y = u.valToPos(ys[i], "y", true);
      path.moveTo(x + size, y);
      path.arc(x, y, size, 0, 2 * Math.PI);
    }
    u.ctx.save();
    u.ctx.fillStyle = fill();
    u.ctx.fill(path);
    if (ring) {
      u.ctx.lineWidth = 2 * devicePixelRatio;
      u.ctx.strokeStyle = ring();
      u.ctx.stroke(path);
    }
    u.ctx.restore();
    return null;
  };
}

function trail(u, series) {
  const [xs, ys] = u.data[series];
  u.ctx.save();
  u.ctx.beginPath();
  xs.forEach((x, i) => u.ctx[i ? "lineTo" : "moveTo"](u.valToPos(x, "x", true), u.valToPos(ys[i], "y", true)));
  u.ctx.lineWidth = 2 * devicePixelRatio;
  u.ctx.strokeStyle = colour("ink");
  u.ctx.stroke();
  u.ctx.restore();
  return null;
}

/**
 * `set(map)`, `add(point)`, `at({trial, step})`; `onregion(region, text)` when a region is marked or
 * cleared; `marked` is where its buttons stand.
 */
export function mapChart({ marked, onregion, onstep }) {
  let data = null;
  let region = null;
  let drawing = null;
  let at = null; // a search and its step; null follows the newest
  let bounds = { x: [-1, 1], y: [-1, 1] };

  const facet = [
    { scale: "x", auto: true },
    { scale: "y", auto: true },
  ];
  const series = (paths) => ({ facets: facet, paths, points: { show: false } });
  const box = chartBox({
    label: "Map",
    role: "group",
    height: (width) => Math.round(Math.min(Math.max(width * 0.7, 240), 460)),
    make: (el, size) => {
      const plot = new uPlot(
        {
          ...size,
          mode: 2,
          legend: { show: false },
          cursor: { show: false, drag: { x: false, y: false } },
          scales: { x: { time: false, range: () => bounds.x }, y: { range: () => bounds.y } },
          axes: [axis(data?.axes?.[0] ?? "", { space: 60 }), axis(data?.axes?.[1] ?? "", { space: 50 })],
          series: [
            {},
            series(dots(1.6, () => colour("cloud"))),
            series(trail),
            series(dots(3, () => colour("accent"))),
            series(
              dots(
                4.5,
                () => colour("page"),
                () => colour("ink"),
              ),
            ),
          ],
          hooks: { draw: [lassoOn, place] },
        },
        columnsNow(),
        el,
      );
      listen(plot);
      return plot;
    },
  });

  const same = (one, other) => one.step === other.step && (one.trial ?? 0) === (other.trial ?? 0);
  function steps() {
    return data?.steps ?? [];
  }
  function current() {
    const all = steps();
    return (at === null ? all[all.length - 1] : all.find((one) => same(one, at))) ?? null;
  }
  function columnsNow() {
    if (!data) return [null, NONE, NONE, NONE, NONE];
    const now = current();
    const upto = steps().filter((one) => !now || (one.trial === now.trial && one.step <= now.step));
    const finds =
      at === null ? data.pictures.filter((one) => one.kind === "images" && one.axes).map((one) => one.axes) : [];
    return [
      null,
      columns(data.ordinary),
      columns(upto.map((one) => one.median).filter(Boolean)),
      now ? columns(now.points) : NONE,
      columns(finds),
    ];
  }
  function measure() {
    const all = [
      ...data.ordinary,
      ...steps().flatMap((one) => one.points),
      ...data.pictures.map((one) => one.axes).filter(Boolean),
    ];
    for (const [name, i] of [
      ["x", 0],
      ["y", 1],
    ]) {
      let low = Infinity;
      let high = -Infinity;
      for (const one of all) {
        low = Math.min(low, one[i]);
        high = Math.max(high, one[i]);
      }
      const pad = (high - low || 1) * 0.06;
      bounds[name] = [low - pad, high + pad];
    }
  }
  function draw() {
    box.plot?.setData(columnsNow());
    const all = steps();
    slider.max = String(Math.max(0, all.length - 1));
    slider.disabled = all.length < 2;
    const now = current();
    slider.value = String(now ? all.indexOf(now) : 0);
    const told = now
      ? `Step ${now.step}: ${far(now.distance)}` +
        (typeof now.quantile === "number" ? `, farther than ${beyond(now.quantile)} of the ordinary` : "")
      : "No samples yet";
    slider.setAttribute("aria-valuetext", told);
    where.textContent = told;
  }

  const thumbs = h("div", { class: "map-thumbs", "aria-hidden": "true" });
  /** Small pictures of what was found, at their points; the lasso goes through them. */
  function place(u) {
    if (thumbs.parentElement !== u.over) u.over.append(thumbs);
    const finds = at === null ? (data?.pictures ?? []).filter((one) => one.kind === "images" && one.axes) : [];
    const key = JSON.stringify([finds.map((one) => one.url), u.over.clientWidth, u.over.clientHeight, bounds]);
    if (thumbs.dataset.key === key) return;
    thumbs.dataset.key = key;
    const kept = []; // one that would hide another is left out; its dot shows it
    for (const one of finds) {
      const [x, y] = [u.valToPos(one.axes[0], "x"), u.valToPos(one.axes[1], "y")];
      if (kept.some((other) => Math.abs(other.x - x) < 30 && Math.abs(other.y - y) < 30)) continue;
      kept.push({ x, y, url: one.url });
    }
    thumbs.replaceChildren(
      ...kept.map(({ x, y, url }) =>
        h("img", { src: url, alt: "", loading: "lazy", style: { left: `${x}px`, top: `${y}px` } }),
      ),
    );
  }

  /** In ordinary distances: the unit of the curve, too. */
  function far(distance) {
    if (!data?.ordinary_distance) return `distance ${number(distance)}`;
    return `${number(distance / data.ordinary_distance)} times as far as ordinary samples`;
  }

  function lassoOn(u) {
    const shape = drawing ?? region;
    if (!shape || shape.length < 2) return;
    u.ctx.save();
    u.ctx.beginPath();
    shape.forEach(([x, y], i) => u.ctx[i ? "lineTo" : "moveTo"](u.valToPos(x, "x", true), u.valToPos(y, "y", true)));
    u.ctx.closePath();
    u.ctx.fillStyle = colour("lasso");
    u.ctx.fill();
    u.ctx.lineWidth = 2 * devicePixelRatio;
    u.ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
    u.ctx.strokeStyle = colour("accent");
    u.ctx.stroke();
    u.ctx.restore();
  }

  function listen(plot) {
    const over = plot.over;
    over.tabIndex = 0;
    over.setAttribute("role", "application");
    over.setAttribute(
      "aria-label",
      "Mark a region of the map. Enter sets a box, the arrow keys move it, " +
        "with Shift they change its size, Escape removes it.",
    );
    const val = (event) => {
      const rect = over.getBoundingClientRect();
      return [plot.posToVal(event.clientX - rect.left, "x"), plot.posToVal(event.clientY - rect.top, "y")];
    };
    over.addEventListener("pointerdown", (event) => {
      if (toggle.getAttribute("aria-pressed") !== "true" || event.button !== 0 || !data) return;
      over.setPointerCapture(event.pointerId);
      drawing = [val(event)];
    });
    over.addEventListener("pointermove", (event) => {
      if (!drawing) return;
      drawing.push(val(event));
      plot.redraw(false, false);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      over.addEventListener(end, () => {
        if (!drawing) return;
        const drawn = drawing;
        drawing = null;
        // the API takes 500 corners; a slip of the hand is no region
        const every = Math.ceil(drawn.length / 200);
        mark(end === "pointerup" && drawn.length > 4 ? drawn.filter((_, i) => i % every === 0) : null);
      });
    }
    over.addEventListener("keydown", keys);
    touching();
  }

  function keys(event) {
    if (!data) return;
    const width = bounds.x[1] - bounds.x[0];
    const height = bounds.y[1] - bounds.y[0];
    if (event.key === "Escape" && region) mark(null);
    else if (event.key === "Enter") {
      const [x, y] = current()?.median ?? [0, 0];
      mark(square(x - width / 10, y - height / 10, x + width / 10, y + height / 10));
    } else if (event.key.startsWith("Arrow") && region) {
      const xs = region.map((one) => one[0]);
      const ys = region.map((one) => one[1]);
      let [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      const dx = { ArrowLeft: -width / 40, ArrowRight: width / 40 }[event.key] ?? 0;
      const dy = { ArrowDown: -height / 40, ArrowUp: height / 40 }[event.key] ?? 0;
      if (!event.shiftKey) [left, low] = [left + dx, low + dy];
      right = Math.max(right + dx, left + width / 80);
      high = Math.max(high + dy, low + height / 80);
      mark(square(left, low, right, high));
    } else return;
    event.preventDefault();
  }
  const square = (left, low, right, high) => [
    [left, low],
    [right, low],
    [right, high],
    [left, high],
  ];

  function mark(shape) {
    region = shape;
    box.plot?.redraw(false, false);
    const found = region ? counts() : null;
    if (found) say(`Region: ${found}`);
    onregion(region, found);
  }
  function counts() {
    const samples = (current()?.points ?? []).filter((one) => inside(one, region)).length;
    const all = steps().reduce((sum, one) => sum + one.points.filter((point) => inside(point, region)).length, 0);
    const ordinary = data.ordinary.filter((one) => inside(one, region)).length;
    return `${samples} samples of this step, ${all} of all steps, ${ordinary} ordinary`;
  }

  const fine = matchMedia("(pointer: fine)").matches;
  const toggle = h("button", { type: "button", class: "quiet small", "aria-pressed": String(fine) }, "Lasso");
  const touching = () => {
    const on = toggle.getAttribute("aria-pressed") === "true";
    box.plot?.over.classList.toggle("lassoing", on);
  };
  toggle.addEventListener("click", () => {
    toggle.setAttribute("aria-pressed", String(toggle.getAttribute("aria-pressed") !== "true"));
    touching();
  });
  const slider = h("input", {
    type: "range",
    min: 0,
    max: 0,
    value: 0,
    step: 1,
    "aria-label": "Step on the map",
    disabled: true,
  });
  slider.addEventListener("input", () => {
    const all = steps();
    const i = Number(slider.value);
    at = i === all.length - 1 ? null : all[i];
    draw();
    onstep?.(all[i] ? { trial: all[i].trial ?? 0, step: all[i].step } : null);
  });
  const where = h("p", { class: "hint" }, "No samples yet");
  const details = h("details", {}, h("summary", {}, "The map as a table"));
  details.addEventListener("toggle", () => {
    if (details.open) tabulate();
  });
  function tabulate() {
    details.querySelector("table")?.remove();
    details.append(
      table(
        "Where fresh samples were at each kept step",
        ["Step", "Median on the map", "Times as far as ordinary", "Quantile"],
        steps().map((one) => [
          String(one.step),
          (one.median ?? []).map((v) => number(v, 2)).join(", "),
          number(one.distance / (data.ordinary_distance ?? 1), 2),
          number(one.quantile, 3),
        ]),
      ),
    );
  }
  const about = h("p", { class: "hint" });
  const el = h(
    "section",
    { class: "panel map", "aria-label": "Map" },
    h("div", { class: "panel-head" }, h("h3", {}, "Map"), toggle),
    box.el,
    marked,
    slider,
    where,
    about,
    details,
  );

  return {
    el,
    get region() {
      return region;
    },
    clear: () => mark(null),
    set(map) {
      data = map;
      if (data) {
        measure();
        about.textContent =
          `Grey: ${data.ordinary.length} of ${data.num_ordinary} ordinary samples; colour: fresh ones. ` +
          `Two axes of ${data.num_components}; distances are measured in all of them.`;
      }
      el.hidden = !data;
      draw();
      if (details.open) tabulate();
    },
    add(point) {
      if (!data || data.steps.some((one) => one.step === point.step && one.trial === point.trial)) return;
      data.steps.push(point);
      measure();
      draw();
    },
    at(step) {
      at = step;
      draw();
    },
  };
}
