// What the shelf knows of one run: title and note, where it comes from, its files, its settings.

import * as api from "../lib/api.js";
import { busy, field, fill, h, problem, toast } from "../lib/dom.js";
import { size } from "../lib/format.js";
import { address } from "../lib/state.js";

const HOW = {
  start: "goes on from",
  avoid: "keeps away from",
  unlike: "is unlike",
  concept: "draws",
  picture: "uses a picture of",
  parent: "made from",
};
function lineage(tree, id) {
  if (tree.nodes.length < 2)
    return h("p", { class: "hint" }, "It comes from no other run, and nothing was made of it yet.");
  const by = new Map(tree.nodes.map((one) => [one.id, one]));
  const link = (one) =>
    h(
      "a",
      { href: address("shelf", one.id), class: "kin" },
      one.cover ? h("img", { src: one.cover, alt: "", class: "tiny" }) : null,
      h("span", {}, one.title),
    );
  const walk = (at, from, to, seen) => {
    const edges = tree.edges.filter((edge) => edge[to] === at && by.has(edge[from]) && !seen.has(edge[from]));
    if (!edges.length) return null;
    return h(
      "ul",
      { class: "tree" },
      edges.map((edge) =>
        h(
          "li",
          {},
          h(
            "span",
            { class: "hint" },
            to === "to" ? `${HOW[edge.how] ?? edge.how} ` : `${HOW[edge.how] ?? edge.how} it: `,
          ),
          link(by.get(edge[from])),
          walk(edge[from], from, to, new Set([...seen, edge[from]])),
        ),
      ),
    );
  };
  const up = walk(id, "from", "to", new Set([id]));
  const down = walk(id, "to", "from", new Set([id]));
  return h(
    "div",
    {},
    up ? [h("p", { class: "label" }, "This run"), up] : null,
    down ? [h("p", { class: "label" }, "What was made of it"), down] : null,
  );
}

/** `show(id)` tells of a run, and again when it has changed; null forgets it. */
export function aboutRun() {
  const el = h("div", { class: "stack" });
  let wanted = null;
  let opened = null;
  async function tell(id) {
    wanted = id;
    const run = await api.run(id).catch(() => null);
    if (!run || wanted !== id) return;
    const key = JSON.stringify([run.id, run.title, run.note, run.favourite, run.shared, run.deleted, run.num_images]);
    if (opened === key) return;
    opened = key;
    const wrong = h("div", {});
    const title = h("input", { value: run.title, maxlength: 120 });
    const text = h("textarea", { rows: 3, maxlength: 5000, value: run.note });
    const save = h("button", {}, "Save");
    const form = h(
      "form",
      { class: "stack" },
      field("Title", title),
      field("Note", text),
      h("div", { class: "row" }, save),
      wrong,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      busy(save, wrong, async () => {
        await api.change(run.id, { title: title.value, note: text.value });
        toast("Saved.");
      });
    });
    const family = h("div", {});
    api.lineage(run.id).then(
      (tree) => family.replaceChildren(lineage(tree, run.id)),
      (error) => problem(family, error),
    );
    fill(
      el,
      h(
        "div",
        { class: "panels" },
        run.own
          ? h("section", { class: "panel", "aria-label": "Title and note" }, h("h3", {}, "Title and note"), form)
          : null,
        h("section", { class: "panel", "aria-label": "Lineage" }, h("h3", {}, "Where it comes from"), family),
        h(
          "section",
          { class: "panel", "aria-label": "Files" },
          h("h3", {}, "Files"),
          h(
            "ul",
            { class: "files" },
            (run.files ?? [])
              .filter((one) => !/^(images|ordinary|trials|sources)\//.test(one.name))
              .map((one) =>
                h(
                  "li",
                  {},
                  h("a", { href: one.url, target: "_blank", rel: "noopener" }, one.name),
                  " ",
                  h("span", { class: "hint" }, size(one.bytes)),
                ),
              ),
          ),
        ),
        h(
          "section",
          { class: "panel wide", "aria-label": "Settings" },
          h(
            "details",
            {},
            h("summary", {}, "Everything that it depends on"),
            h(
              "pre",
              { tabindex: 0, role: "region", "aria-label": "Settings as JSON" },
              JSON.stringify(run.settings, null, 1),
            ),
          ),
        ),
      ),
    );
  }

  function show(id) {
    if (id !== wanted) {
      opened = null;
      el.replaceChildren();
    }
    wanted = id;
    return id ? tell(id) : undefined;
  }
  return { el, show };
}
