// What was asked for before: the last requests of this browser, to be filled in again.

import { h, options } from "../lib/dom.js";

const MOST = 20;

function read(key) {
  try {
    const kept = JSON.parse(localStorage.getItem(key) ?? "[]");
    return Array.isArray(kept) ? kept : [];
  } catch {
    return [];
  }
}

/** `note(request)` keeps one; choosing one calls `fill(request)`. Nothing of it leaves the browser. */
export function asked(room, name, fill) {
  const key = `offbeat-asked-${room}`;
  const select = h("select", { "aria-label": "Asked before" });
  const el = h("div", { class: "field" }, h("label", {}, "Asked before"), select);
  function draw() {
    const list = read(key);
    el.hidden = !list.length;
    select.replaceChildren(...options([["", "fill in again …"], ...list.map((one, i) => [String(i), name(one)])]));
  }
  select.addEventListener("change", () => {
    const one = read(key)[Number(select.value)];
    select.value = "";
    if (one) fill(one);
  });
  draw();
  return {
    el,
    note(request) {
      const text = JSON.stringify(request);
      const others = read(key).filter((one) => JSON.stringify(one) !== text);
      try {
        localStorage.setItem(key, JSON.stringify([request, ...others].slice(0, MOST)));
      } catch {
        /* storage may be full or switched off: then there is no history */
      }
      draw();
    },
  };
}
