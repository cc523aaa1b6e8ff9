// What the next exploration is to keep away from, and where it starts: gathered from any room.

import { pictureUrl } from "../lib/api.js";
import { h, say } from "../lib/dom.js";

const bus = new EventTarget();
export const steering = { avoid: [], unlike: [], start: null };
const changed = () => bus.dispatchEvent(new Event("change"));
export const onsteer = (hear) => bus.addEventListener("change", hear);

/** Less of this: a run, a step of it, or a lasso on its map. */
export function lessOf(ref, text) {
  steering.avoid.push({ ref, text });
  say(`Added: less of ${text}`);
  changed();
}

/** What an earlier run kept away from, as far as it is not listed already. */
export function awayAgain(request) {
  const news = (list, ref) => !list.some((one) => JSON.stringify(one.ref) === JSON.stringify(ref));
  for (const ref of request.avoid ?? [])
    if (news(steering.avoid, ref)) steering.avoid.push({ ref, text: "what it kept away from" });
  for (const ref of request.unlike ?? []) {
    const url = ref.kind === "previews" ? null : pictureUrl(ref);
    if (news(steering.unlike, ref)) steering.unlike.push({ ref, text: "a picture of before", url });
  }
  changed();
}

/** Unlike these pictures: together they are one cluster to keep away from. */
export function unlike(refs) {
  const has = (ref) => steering.unlike.some((one) => JSON.stringify(one.ref) === JSON.stringify(ref.ref));
  steering.unlike.push(...refs.filter((ref) => !has(ref)));
  say(`Unlike ${steering.unlike.length} pictures`);
  changed();
}

/** More like this: where the next search starts. `subject` is whose it was. */
export function startFrom(start, text, request) {
  steering.start = { ...start, text, request };
  say(`The next search starts from ${text}`);
  changed();
}

export function started() {
  steering.start = null;
  changed();
}

export function clearSteering() {
  Object.assign(steering, { avoid: [], unlike: [], start: null });
  changed();
}

/** The list of it, each with a button that takes it away. */
export function steerList() {
  const el = h("div", { class: "steer" });
  function draw() {
    const chip = (text, url, take) =>
      h(
        "li",
        { class: "chip" },
        url ? h("img", { src: url, alt: "" }) : null,
        h("span", {}, text),
        h(
          "button",
          {
            type: "button",
            class: "quiet",
            "aria-label": `Remove: ${text}`,
            onclick: () => {
              take();
              changed();
            },
          },
          "×",
        ),
      );
    const chips = [];
    if (steering.start)
      chips.push(
        chip(`Start: ${steering.start.text}`, null, () => {
          steering.start = null;
        }),
      );
    steering.avoid.forEach((one) =>
      chips.push(
        chip(`Less of ${one.text}`, null, () => {
          steering.avoid = steering.avoid.filter((other) => other !== one);
        }),
      ),
    );
    steering.unlike.forEach((one) =>
      chips.push(
        chip(`Unlike ${one.text}`, one.url, () => {
          steering.unlike = steering.unlike.filter((other) => other !== one);
        }),
      ),
    );
    el.replaceChildren(...(chips.length ? [h("ul", { class: "chips", "aria-label": "Steering" }, chips)] : []));
  }
  onsteer(draw);
  draw();
  return el;
}
