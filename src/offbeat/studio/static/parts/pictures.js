// Grids of pictures that are walked with the arrow keys, picked with Space and opened with Enter.

import { h, say, uid } from "../lib/dom.js";
import { beyond, MARKS, number, pictureName, verdict } from "../lib/format.js";

export const keyOf = (picture) => `${picture.kind}/${picture.trial ?? ""}/${picture.step ?? ""}/${picture.index}`;

/** A picture of a run: small ones are drawn with hard edges, as they are. */
export function image(url, alt) {
  const img = h("img", { src: url, alt, loading: "lazy", decoding: "async", draggable: "false" });
  img.addEventListener("load", () => img.classList.toggle("tiny", img.naturalWidth <= 96));
  return img;
}

/**
 * A grid. `show(pictures)` sets or updates it in place; `picked` holds the keys of what is picked.
 * `note(picture)` is a line below a picture, or null.
 */
export function pictureGrid({ label, title, subject, onopen, onpick, note, picked = new Set() }) {
  const hint = h("p", { class: "unseen", id: uid("hint") }, "Arrow keys move, Space picks, Enter opens.");
  const list = h("div", {
    class: "grid",
    role: "listbox",
    "aria-multiselectable": "true",
    "aria-label": label,
    "aria-describedby": hint.id,
  });
  const el = h("div", { class: "grid-holder" }, list, hint);
  const cells = new Map();
  let shown = [];

  function cell(picture) {
    const mark = h("span", { class: "mark", "aria-hidden": "true" }, "✓");
    const img = image(picture.url, "");
    const caption = h("span", { class: "caption", "aria-hidden": "true" });
    const one = h(
      "div",
      { class: "cell", role: "option", tabindex: "-1", "aria-selected": "false" },
      h("span", { class: "frame" }, img, mark),
      caption,
    );
    one.addEventListener("click", (event) => {
      const now = cells.get(keyOf(picture)).picture;
      focus(one, false);
      if (event.target === mark || event.ctrlKey || event.metaKey || event.shiftKey) pick(now);
      else onopen?.(now, shown);
    });
    return { one, img, caption, picture };
  }

  function fill(entry, picture) {
    entry.picture = picture;
    if (!entry.img.src.endsWith(picture.url)) entry.img.src = picture.url;
    const words = pictureName(picture, title());
    const said = picture.verdict ? `, ${verdict(picture.verdict, subject())}` : "";
    entry.one.setAttribute("aria-label", words + said);
    entry.caption.replaceChildren(...[note?.(picture)].flat().filter(Boolean));
    entry.caption.hidden = !entry.caption.hasChildNodes();
  }

  function pick(picture, on = !picked.has(keyOf(picture))) {
    const key = keyOf(picture);
    if (on) picked.add(key);
    else picked.delete(key);
    paint();
    say(on ? "Picked" : "No longer picked");
    onpick?.();
  }

  function paint() {
    for (const [key, entry] of cells) entry.one.setAttribute("aria-selected", String(picked.has(key)));
    list.classList.toggle("has-picks", picked.size > 0);
  }

  function focus(one, move = true) {
    for (const entry of cells.values()) entry.one.tabIndex = entry.one === one ? 0 : -1;
    if (move) one.focus();
  }

  list.addEventListener("keydown", (event) => {
    const all = [...list.children];
    const at = all.indexOf(document.activeElement);
    if (at < 0) return;
    const columns = Math.max(
      1,
      all.findIndex((one) => one.offsetTop > all[0].offsetTop),
    );
    const down = columns === 1 && all.length && all[all.length - 1].offsetTop === all[0].offsetTop ? 0 : columns;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: down, ArrowUp: -down }[event.key];
    let to = null;
    if (step !== undefined) to = all[at + step] ?? null;
    else if (event.key === "Home") to = all[0];
    else if (event.key === "End") to = all[all.length - 1];
    else if (event.key === " " || event.key === "Enter") {
      const entry = [...cells.values()].find((one) => one.one === document.activeElement);
      if (event.key === " ") pick(entry.picture);
      else onopen?.(entry.picture, shown);
    } else return;
    event.preventDefault();
    if (to) focus(to);
  });

  function show(pictures) {
    shown = pictures;
    const wanted = new Set(pictures.map(keyOf));
    for (const [key, entry] of cells) {
      if (wanted.has(key)) continue;
      entry.one.remove();
      cells.delete(key);
    }
    pictures.forEach((picture, i) => {
      const key = keyOf(picture);
      if (!cells.has(key)) cells.set(key, cell(picture));
      fill(cells.get(key), picture);
      const one = cells.get(key).one;
      if (list.children[i] !== one) list.insertBefore(one, list.children[i] ?? null);
    });
    if (list.firstElementChild && ![...cells.values()].some((entry) => entry.one.tabIndex === 0)) {
      list.firstElementChild.tabIndex = 0;
    }
    // a listbox without options would be announced as broken
    list.hidden = pictures.length === 0;
    paint();
  }
  return { el, list, show, paint };
}

/** Facts of a picture, for the big view. */
export function facts(picture, subject) {
  const rows = [];
  if (picture.asked) rows.push(["Asked", picture.asked]);
  if (picture.caption) rows.push(["Reads as", picture.caption]);
  if (picture.verdict) rows.push(["Judge", verdict(picture.verdict, subject)]);
  if (typeof picture.seen === "number") rows.push(["Looks", `${number(picture.seen)}× as different as an ordinary one`]);
  if (typeof picture.distance === "number") rows.push(["Distance", number(picture.distance)]);
  if (typeof picture.quantile === "number") {
    rows.push(["Farther than", `${beyond(picture.quantile)} of the ordinary`]);
  }
  if (picture.step) rows.push(["Step", String(picture.step)]);
  return h(
    "dl",
    { class: "facts" },
    rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
}

/** A verdict as a mark that does not lean on colour. */
export function badge(one, subject) {
  return h("span", { class: `badge ${one.answer}`, title: verdict(one, subject) }, MARKS[one.answer] ?? "?");
}
