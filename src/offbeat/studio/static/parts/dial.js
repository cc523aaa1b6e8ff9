// The novelty dial: a slider, and an arc that shows what it says.

import { h, s, uid } from "../lib/dom.js";

const LOW = 1;
const HIGH = 4;
const WORDS = [
  [1.15, "nearly ordinary"],
  [1.5, "a little unusual"],
  [2.2, "unusual"],
  [3, "strange"],
  [9, "far out"],
];

const spot = (share, radius) => {
  const angle = Math.PI * (1 - share);
  return [100 + radius * Math.cos(angle), 100 - radius * Math.sin(angle)];
};
function arc(from, to, radius) {
  const [ax, ay] = spot(from, radius);
  const [bx, by] = spot(to, radius);
  return `M${ax} ${ay} A${radius} ${radius} 0 0 1 ${bx} ${by}`;
}

export function dial(start = 2) {
  const id = uid("dial");
  const input = h("input", { type: "range", min: LOW, max: HIGH, step: 0.1, id, "aria-describedby": `${id}-hint` });
  const value = s("path", { class: "dial-value" });
  const knob = s("circle", { class: "dial-knob", r: 8 });
  const number = s("text", { class: "dial-number", x: 100, y: 82, "text-anchor": "middle" });
  const word = s("text", { class: "dial-word", x: 100, y: 101, "text-anchor": "middle" });
  const marks = [1, 2, 3, 4].map((at) => {
    const [x, y] = spot((at - LOW) / (HIGH - LOW), 62);
    return s("text", { class: "dial-mark", x, y: y + 4, "text-anchor": "middle" }, String(at));
  });
  const face = s(
    "svg",
    { viewBox: "0 0 200 112", class: "dial", "aria-hidden": "true" },
    s("path", { class: "dial-track", d: arc(0, 1, 80) }),
    value,
    ...marks,
    number,
    word,
    knob,
  );
  function draw() {
    const at = Number(input.value);
    const share = (at - LOW) / (HIGH - LOW);
    value.setAttribute("d", arc(0, Math.max(share, 0.001), 80));
    const [x, y] = spot(share, 80);
    knob.setAttribute("cx", x);
    knob.setAttribute("cy", y);
    number.textContent = `${at.toFixed(1)}×`;
    word.textContent = WORDS.find(([upto]) => at <= upto)[1];
    input.setAttribute("aria-valuetext", `${at.toFixed(1)} times as different as ordinary, ${word.textContent}`);
  }
  // the arc is a handle as well; whoever uses keys has the slider below it
  const drag = (event) => {
    const rect = face.getBoundingClientRect();
    const x = ((event.clientX - rect.left) / rect.width) * 200 - 100;
    const y = 100 - ((event.clientY - rect.top) / rect.height) * 112;
    const share = 1 - Math.min(Math.PI, Math.max(0, Math.atan2(Math.max(y, 0), x))) / Math.PI;
    input.value = String(LOW + share * (HIGH - LOW));
    draw();
  };
  face.addEventListener("pointerdown", (event) => {
    face.setPointerCapture(event.pointerId);
    drag(event);
  });
  face.addEventListener("pointermove", (event) => {
    if (face.hasPointerCapture(event.pointerId)) drag(event);
  });
  input.addEventListener("input", draw);
  input.value = String(start);
  draw();
  const el = h(
    "div",
    { class: "field dial-field" },
    h("label", { for: id }, "Novelty"),
    face,
    input,
    h("p", { class: "hint", id: `${id}-hint` }, "How many times as different the pictures should look: 1 is just another ordinary one."),
  );
  return {
    el,
    get value() {
      return Number(input.value);
    },
    set value(to) {
      input.value = String(to);
      draw();
    },
  };
}
