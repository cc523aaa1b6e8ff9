// What an exploration found: ordinary pictures small above, then a row for each direction.

import { fill, h } from "../lib/dom.js";
import { number } from "../lib/format.js";
import { pictureGrid } from "./pictures.js";

/** How many directions a run has, and how many searches each: its request says it. */
export const directionsOf = (run) => run?.request?.directions ?? 1;
export const trialsOf = (run) => run?.request?.num_trials ?? 1;

/** The searches of a direction are numbered one after the other. */
export const ofDirection = (run, direction, trial) => Math.floor((trial ?? 0) / trialsOf(run)) === direction;

/** The pictures that a direction shows: by what the run says, or by their number while it runs. */
export function imagesOf(run, images, direction) {
  const count = directionsOf(run);
  if (count === 1) return images;
  const each = run.request?.num_images ?? 8;
  return images.filter((one) => (one.concept ?? Math.floor(one.index / each)) === direction);
}

/** "2.1× as different · 22 of 24 recognised" */
export function inShort(found) {
  if (!found) return "";
  const parts = [];
  if (typeof found.seen === "number") parts.push(`${number(found.seen)}× as different`);
  if (found.validity !== null && found.validity !== undefined)
    parts.push(`${found.num_passed} of ${found.num_drawn} recognised`);
  return parts.join(" · ");
}

/** `show({ordinary, rows})`; each row has `name`, `note`, `pictures` and buttons in `actions`. */
export function directionRows(options) {
  const ordinary = pictureGrid({ ...options, label: "Ordinary pictures" });
  const compare = h("section", { "aria-label": "Ordinary", class: "compare-with" }, h("h3", {}, "Ordinary"), ordinary.el);
  const rows = [];
  const holder = h("div", { class: "directions" });
  const el = h("div", { class: "found" }, compare, holder);

  function row(index) {
    if (!rows[index]) {
      const name = h("h3", {});
      const note = h("p", { class: "hint" });
      const actions = h("div", { class: "row wrap" });
      const label = options.several() ? `Pictures of direction ${index + 1}` : "Pictures found";
      const grid = pictureGrid({ ...options, label });
      const section = h(
        "section",
        { class: "direction", "aria-label": label },
        h("div", { class: "panel-head" }, h("div", { class: "direction-head" }, name, note), actions),
        grid.el,
      );
      rows[index] = { section, name, note, actions, grid, key: "" };
    }
    return rows[index];
  }

  return {
    el,
    ordinary,
    get grids() {
      return [ordinary, ...rows.filter(Boolean).map((one) => one.grid)];
    },
    clear() {
      rows.length = 0;
      holder.replaceChildren();
    },
    show(found) {
      compare.hidden = found.ordinary.length === 0;
      ordinary.show(found.ordinary);
      const shown = found.rows.map((one, index) => {
        const to = row(index);
        to.name.textContent = one.name;
        to.note.textContent = one.note;
        const key = one.actions.map(([text]) => text).join("/");
        if (to.key !== key) {
          to.key = key;
          fill(
            to.actions,
            one.actions.map(([text, act]) => h("button", { type: "button", class: "small", onclick: act }, text)),
          );
        }
        to.grid.show(one.pictures);
        return to.section;
      });
      if (shown.length !== holder.children.length || shown.some((one, i) => holder.children[i] !== one))
        holder.replaceChildren(...shown);
    },
  };
}
