// A walk around the page in five steps, for whoever asks for it.

import { h, say } from "../lib/dom.js";
import { go } from "../lib/state.js";

const STEPS = [
  ["#explore-word", "Say what", "Type a word, or press one of the suggestions below it."],
  [".dial-field", "Say how far", "At 2 the pictures should look twice as different as just another ordinary one."],
  [".go", "Go", "Four pictures show how far the search is. The rows are directions: each is unusual in its own way."],
  [".stage", "Steer", "Press a picture to see it large, like it, or have less of it. Every direction can go on from where it is."],
  ["#rooms", "The other rooms", "Fuse mixes two things, Paint brings one into an artwork, and the Shelf keeps everything."],
];

/** Begin the tour; Escape or Skip ends it. */
export function tour() {
  go("explore");
  let at = 0;
  let marked = null;
  const before = document.activeElement;
  const title = h("h2", { id: "tour-title" });
  const text = h("p", {});
  const count = h("p", { class: "hint" });
  const next = h("button", { type: "button", class: "primary" }, "Next");
  const skip = h("button", { type: "button", class: "quiet" }, "Skip");
  const el = h(
    "section",
    { class: "tour", role: "dialog", "aria-labelledby": "tour-title" },
    count,
    title,
    text,
    h("div", { class: "row" }, next, skip),
  );
  function show() {
    marked?.classList.remove("toured");
    const [where, name, words] = STEPS[at];
    marked = [...document.querySelectorAll(where)].find((one) => one.offsetParent) ?? null;
    marked?.classList.add("toured");
    marked?.scrollIntoView({ block: "nearest" });
    title.textContent = name;
    text.textContent = words;
    count.textContent = `${at + 1} of ${STEPS.length}`;
    next.textContent = at === STEPS.length - 1 ? "Done" : "Next";
    say(`${name}. ${words}`);
    next.focus({ preventScroll: true });
  }
  function end() {
    marked?.classList.remove("toured");
    el.remove();
    removeEventListener("keydown", escape);
    if (before?.isConnected) before.focus();
  }
  const escape = (event) => {
    if (event.key === "Escape") end();
  };
  next.addEventListener("click", () => {
    at += 1;
    if (at === STEPS.length) end();
    else show();
  });
  skip.addEventListener("click", end);
  addEventListener("keydown", escape);
  document.querySelector(".tour")?.remove();
  document.body.append(el);
  show();
}
