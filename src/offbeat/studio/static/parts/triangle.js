// Three words at the corners of a triangle, and a point between them.

import { h, s } from "../lib/dom.js";
import { rebalance, WHOLE } from "./mixer.js";

const CORNERS = [
  [100, 16],
  [14, 164],
  [186, 164],
];

/** `set(names, shares)`; `onchange(shares)` gets three whole numbers that sum to 100. */
export function trianglePad(onchange) {
  let shares = [34, 33, 33];
  let names = ["", "", ""];
  const knob = s("circle", { class: "dial-knob", r: 8 });
  const lines = CORNERS.map(() => s("line", { class: "pad-line" }));
  const place = (i, line) => ({
    x: CORNERS[i][0],
    y: (i ? 180 : 0) + 11 * line,
    "text-anchor": ["middle", "start", "end"][i],
  });
  const labels = CORNERS.map((_, i) => s("text", { class: "pad-label", ...place(i, 0) }));
  const told = CORNERS.map((_, i) => s("text", { class: "pad-share", ...place(i, 1) }));
  const svg = s(
    "svg",
    {
      viewBox: "0 -10 200 204",
      class: "pad",
      role: "slider",
      tabindex: 0,
      "aria-label": "Point in the triangle. The arrow keys move it.",
      "aria-valuemin": 0,
      "aria-valuemax": WHOLE,
    },
    s("polygon", { class: "pad-face", points: CORNERS.map((one) => one.join(",")).join(" ") }),
    ...lines,
    ...labels,
    ...told,
    knob,
  );

  function draw() {
    const x = shares.reduce((sum, share, i) => sum + (share / WHOLE) * CORNERS[i][0], 0);
    const y = shares.reduce((sum, share, i) => sum + (share / WHOLE) * CORNERS[i][1], 0);
    knob.setAttribute("cx", x);
    knob.setAttribute("cy", y);
    lines.forEach((line, i) => {
      for (const [name, value] of Object.entries({ x1: x, y1: y, x2: CORNERS[i][0], y2: CORNERS[i][1] }))
        line.setAttribute(name, value);
    });
    labels.forEach((label, i) => {
      label.textContent = names[i];
    });
    told.forEach((label, i) => {
      label.textContent = `${shares[i]} %`;
    });
    svg.setAttribute("aria-valuenow", String(shares[0]));
    svg.setAttribute("aria-valuetext", names.map((name, i) => `${name} ${shares[i]} percent`).join(", "));
  }
  function to(next) {
    shares = next;
    draw();
    onchange(shares);
  }
  function at(event) {
    const rect = svg.getBoundingClientRect();
    const scale = Math.min(rect.width / 200, rect.height / 204);
    const x = (event.clientX - rect.left - (rect.width - 200 * scale) / 2) / scale;
    const y = (event.clientY - rect.top - (rect.height - 204 * scale) / 2) / scale - 10;
    const [[ax, ay], [bx, by], [cx, cy]] = CORNERS;
    const det = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy);
    let parts = [
      ((by - cy) * (x - cx) + (cx - bx) * (y - cy)) / det,
      ((cy - ay) * (x - cx) + (ax - cx) * (y - cy)) / det,
    ];
    parts = [...parts, 1 - parts[0] - parts[1]].map((one) => Math.max(one, 0));
    const sum = parts[0] + parts[1] + parts[2];
    const first = Math.round((parts[0] / sum) * WHOLE);
    const second = Math.min(Math.round((parts[1] / sum) * WHOLE), WHOLE - first);
    to([first, second, WHOLE - first - second]);
  }
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    at(event);
  });
  svg.addEventListener("pointermove", (event) => {
    if (svg.hasPointerCapture(event.pointerId)) at(event);
  });
  svg.addEventListener("keydown", (event) => {
    const by = event.shiftKey ? 10 : 2;
    const [i, sign] = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [1, 1], ArrowRight: [2, 1] }[event.key] ?? [];
    if (i === undefined) return;
    event.preventDefault();
    to(rebalance(shares, i, shares[i] + sign * by));
  });
  return {
    el: h("div", { class: "pad-holder" }, svg),
    set(given, parts) {
      names = given;
      shares = parts;
      draw();
    },
  };
}
