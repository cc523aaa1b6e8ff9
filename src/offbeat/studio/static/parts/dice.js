// Dice: places in the space of tokens that nobody named, by a law and a seed.

import { h, segments } from "../lib/dom.js";
import { seedField } from "./words.js";

export const LAWS = [
  ["gaussian", "Gaussian"],
  ["laplace", "Laplace"],
  ["cauchy", "Cauchy"],
];
const KEPT = 16;

/** `keep(canvas)` puts what was just drawn among the earlier throws, in `throws`, newest first. */
export function diceBox(onchange) {
  let law = "gaussian";
  const throws = [];
  const seed = seedField(onchange);
  const laws = segments("Law of the dice", LAWS, law, (value) => {
    law = value;
    onchange();
  });
  const thrown = h("div", { class: "thrown", role: "group", "aria-label": "What was thrown before" });
  const again = h("button", { type: "button", class: "primary big-button" }, "Throw");
  again.addEventListener("click", () => {
    seed.value = Math.floor(Math.random() * 1e6);
    onchange();
  });

  function set(newLaw, newSeed) {
    if (LAWS.some(([name]) => name === newLaw)) law = newLaw;
    laws.choose(law);
    seed.value = newSeed;
  }
  function keep(one, canvas) {
    if (throws.some((other) => other.seed === one.seed && other.law === one.law)) return false;
    throws.unshift(one);
    const copy = h("canvas", { width: canvas.width, height: canvas.height, class: "tiny", "aria-hidden": "true" });
    copy.getContext("2d").drawImage(canvas, 0, 0);
    const label = `Throw ${one.seed}, ${one.law}`;
    const back = () => {
      set(one.law, one.seed);
      onchange();
    };
    thrown.prepend(h("button", { type: "button", "aria-label": label, title: label, onclick: back }, copy));
    while (throws.length > KEPT) {
      thrown.lastElementChild.remove();
      throws.pop();
    }
    return true;
  }
  const about =
    "A throw lands somewhere in the space of tokens, where nothing has a name. The law says how far from the middle: Cauchy goes farthest.";
  const el = h(
    "section",
    { class: "stack", "aria-label": "Dice" },
    h("p", { class: "hint" }, about),
    laws,
    seed.el,
    again,
    thrown,
  );
  return {
    el,
    throws,
    set,
    keep,
    get law() {
      return law;
    },
    get seed() {
      return seed.value;
    },
  };
}
