// One picture, large: what is known of it, and what can be done with it.

import { dialog, fill, h } from "../lib/dom.js";
import { pictureName } from "../lib/format.js";
import { pictureActions } from "./actions.js";
import { facts, image, keyOf } from "./pictures.js";

/** Show `picture` of `list` large, with what is known of it and what can be done with it. */
export function lightbox(run, picture, list, { picked, changed }) {
  const holder = h("div", { class: "big" });
  let at = list.findIndex((one) => keyOf(one) === keyOf(picture));
  const box = dialog(run.title, holder);
  box.classList.add("lightbox");
  const draw = (focusOn) => {
    const one = list[at];
    const previous = h(
      "button",
      {
        type: "button",
        class: "quiet",
        disabled: at === 0,
        onclick: () => {
          at -= 1;
          draw("previous");
        },
      },
      "← Previous",
    );
    const next = h(
      "button",
      {
        type: "button",
        class: "quiet",
        disabled: at === list.length - 1,
        onclick: () => {
          at += 1;
          draw("next");
        },
      },
      "Next →",
    );
    fill(
      holder,
      image(one.url, pictureName(one, run.title)),
      h(
        "div",
        { class: "stack" },
        h("div", { class: "row" }, previous, h("span", { class: "hint" }, `${at + 1} of ${list.length}`), next),
        facts(one, run.subject),
        pictureActions(run, one, () => box.close(), {
          picked,
          repick: (which) => {
            const key = keyOf(which);
            if (picked.has(key)) picked.delete(key);
            else picked.add(key);
            changed();
          },
        }),
      ),
    );
    if (focusOn) (focusOn === "next" && !next.disabled ? next : previous.disabled ? next : previous).focus();
  };
  holder.addEventListener("keydown", (event) => {
    const to = at + ({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0);
    if (to === at || !list[to]) return;
    at = to;
    draw("next");
  });
  draw();
}
