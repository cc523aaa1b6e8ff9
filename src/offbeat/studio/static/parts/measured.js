// "How was this measured?": the statistics of an exploration in plain sentences, and its curve.

import { fill, h } from "../lib/dom.js";
import { beyond, judge, number, percent } from "../lib/format.js";

const ENDS = {
  held: "the distance was reached and held",
  farthest: "it went as far as is allowed, or nothing farther passed the judge",
  judge: "the judge no longer saw the subject, and the last state that passed was kept",
  steps: "the steps ran out",
};

function sentences(run) {
  const about = run.summary ?? {};
  const fresh = about.fresh ?? {};
  const told = [];
  if (typeof about.seen === "number")
    told.push(
      `“Different” is how far a picture is from the nearest ordinary ones, as ${about.eye} sees them; 1 is the distance between ordinary pictures. The median of what is shown is ${number(about.seen, 2)}.`,
    );
  if (typeof about.validity === "number")
    told.push(
      `The ${judge(about.judge)} judge passed ${percent(about.validity)} of all pictures that were drawn; only such pictures are shown where there are enough.`,
    );
  if (typeof about.variety === "number")
    told.push(
      `Variety: ${number(about.variety, 2)} times that of as many ordinary pictures (Vendi score); below 1 they are more alike.`,
    );
  if (fresh.distance_median && about.ordinary_distance)
    told.push(
      `In the checkpoint's own space of ${about.num_axes} axes, ${fresh.num} fresh samples of the best direction are ${number(fresh.distance_median / about.ordinary_distance, 2)} times as far as ordinary ones, farther than ${beyond(fresh.held_out_share)} of ${fresh.num_held_out} that were held out.`,
    );
  for (const one of about.directions ?? [])
    told.push(
      `${(about.directions ?? []).length > 1 ? `Direction ${one.direction + 1}` : "The search"} ended after ${one.step} steps: ${ENDS[one.stopped] ?? one.stopped}.`,
    );
  return told;
}

/** `set(run)` fills it; the curve stands in it. */
export function howMeasured(curve) {
  const words = h("ul", { class: "sentences" });
  const el = h(
    "details",
    { class: "measured", hidden: true },
    h("summary", {}, "How was this measured?"),
    h("div", { class: "stack" }, words, curve.el),
  );
  return {
    el,
    set(run) {
      const told = run ? sentences(run) : [];
      el.hidden = !told.length;
      fill(
        words,
        told.map((text) => h("li", {}, text)),
      );
    },
  };
}
