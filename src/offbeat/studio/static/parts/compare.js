// Runs side by side: their pictures, and only what they differ in.

import * as api from "../lib/api.js";
import { dialog, h, problem } from "../lib/dom.js";
import { VERBS } from "../lib/format.js";
import { address } from "../lib/state.js";
import { image } from "./pictures.js";

export async function compare(ids) {
  const holder = h("div", { class: "compare" });
  const wrong = h("div", {});
  const box = dialog("Side by side", wrong, holder);
  box.classList.add("wide");
  try {
    const all = await Promise.all(ids.slice(0, 6).map(api.run));
    const flat = all.map((one) => ({
      Kind: VERBS[one.verb],
      Method: one.method,
      Checkpoint: one.backbone,
      ...Object.fromEntries(
        Object.entries(one.request ?? {})
          .filter(([, v]) => v !== null && typeof v !== "object")
          .map(([k, v]) => [k.replaceAll("_", " "), String(v)]),
      ),
    }));
    const names = [...new Set(flat.flatMap(Object.keys))].filter(
      (name) => name !== "verb" && new Set(flat.map((one) => one[name])).size > 1,
    );
    holder.replaceChildren(
      ...all.map((run, i) =>
        h(
          "section",
          { "aria-label": run.title },
          h("h3", {}, h("a", { href: address("shelf", run.id), onclick: () => box.close() }, run.title)),
          h(
            "div",
            { class: "compare-pictures" },
            run.pictures
              .filter((one) => one.kind === "images")
              .slice(0, 16)
              .map((one) => image(one.url, one.caption || `${run.title} ${one.index + 1}`)),
          ),
          h("p", {}, run.in_words),
          h(
            "dl",
            { class: "facts" },
            names.map((name) => [h("dt", {}, name), h("dd", {}, flat[i][name] ?? "–")]),
          ),
        ),
      ),
    );
  } catch (error) {
    problem(wrong, error);
  }
}
