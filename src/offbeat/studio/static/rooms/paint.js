// Paint: a content and a text into an artwork, and the strip of strengths.

import { pictureUrl } from "../lib/api.js";
import { busy, field, h, options, problem } from "../lib/dom.js";
import * as live from "../lib/live.js";
import { fitting, method, methods, receive } from "../lib/state.js";
import { begin } from "../parts/actions.js";
import { pictureSlot } from "../parts/drop.js";
import { image } from "../parts/pictures.js";
import { runView } from "../parts/runview.js";
import { settingsForm } from "../parts/settings.js";
import { seedField } from "../parts/words.js";

export function paint() {
  const view = runView();
  const trouble = h("div", {});
  const art = pictureSlot({ label: "Artwork", hint: "Drop a picture: its style and layout stay." });
  const content = pictureSlot({ label: "Content", hint: "Drop a picture of what is to be painted. Or only write." });
  const prompt = h("input", { maxlength: 1000, placeholder: "a picture of a castle" });
  const how = h("select", {}, options(methods("paint").map((one) => [one.name, one.name])));
  const about = h("p", { class: "hint" });
  const settings = settingsForm();
  const seed = seedField();
  const num = h("input", { type: "number", min: 1, max: 64, value: 1 });
  const many = h("input", { type: "number", min: 2, max: 16, value: 7 });
  const strength = h("input", { type: "range", min: 0, max: 100, value: 50, step: 1, id: "paint-strength" });
  const strengthTold = h("output", { for: "paint-strength" }, "0.50");
  const strip = h("button", { class: "primary" }, "Draw the strip");
  const single = h("button", { type: "button" }, "Draw one strength");
  const chosen = () => {
    const one = method(how.value);
    about.textContent = one?.summary ?? "";
    settings.show(one);
  };
  how.addEventListener("change", chosen);
  chosen();

  // the strip under the slider: moving it shows the strength that is nearest
  const big = h("figure", { class: "strip-picture", hidden: true });
  let shown = [];
  function scrub() {
    const at = Number(strength.value) / 100;
    strengthTold.textContent = at.toFixed(2);
    strength.setAttribute("aria-valuetext", `strength ${at.toFixed(2)}`);
    big.hidden = shown.length < 2;
    if (big.hidden) return;
    const i = Math.round(at * (shown.length - 1));
    const one = shown[i];
    if (big.dataset.url !== one.url) {
      big.dataset.url = one.url;
      const told = `Strength ${(i / (shown.length - 1)).toFixed(2)}`;
      big.replaceChildren(image(one.url, told), h("figcaption", {}, told));
    }
  }
  strength.addEventListener("input", scrub);
  function strips() {
    const entry = view.run ?? live.jobs.get(view.id);
    const count = entry?.request?.sweep;
    const found = count ? entry.pictures.filter((one) => one.kind === "images") : [];
    // one picture of each strength, in their order, once all are there
    const each = Math.max(1, Math.floor(found.length / (count || 1)));
    shown = found.length >= count ? found.filter((_, i) => i % each === 0).slice(0, count) : [];
    scrub();
  }
  for (const name of ["picture", "finished"]) live.on(name, () => setTimeout(strips, 50));

  function request() {
    if (!art.ref) throw new Error("There is no artwork yet. Drop one, or choose “As artwork” at any picture.");
    if (!content.ref && !prompt.value.trim())
      throw new Error("Nothing is to be painted yet. Drop a content picture, or write what it shall be.");
    const body = { verb: "paint", art: art.ref, seed: seed.value, num_images: Number(num.value) || 1 };
    if (how.value && how.value !== "creativesynth")
      Object.assign(body, { method: how.value, backbone: fitting(how.value) });
    if (content.ref) body.content = content.ref;
    if (prompt.value.trim()) body.prompt = prompt.value.trim();
    const config = settings.read();
    if (Object.keys(config).length) body.config = config;
    return body;
  }
  const form = h(
    "form",
    { class: "controls", "aria-label": "What to paint" },
    art.el,
    content.el,
    field("Text", prompt),
    h(
      "div",
      { class: "field" },
      h("div", { class: "between" }, h("label", { for: strength.id }, "Strength"), strengthTold),
      strength,
      h("p", { class: "hint" }, "0 leaves the artwork as it is. When a strip is drawn, this moves along it."),
    ),
    h("div", { class: "row wrap" }, strip, single),
    trouble,
    h(
      "details",
      {},
      h("summary", {}, "More"),
      h(
        "div",
        { class: "stack" },
        field("Strengths in the strip", many),
        field("Pictures of each", num),
        seed.el,
        field("Method", how),
        about,
        settings.el,
      ),
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(strip, trouble, () => begin({ ...request(), sweep: Number(many.value) || 7 }));
  });
  single.addEventListener("click", () =>
    busy(single, trouble, () => begin({ ...request(), strength: Number(strength.value) / 100 })),
  );

  receive("paint", ({ art: work, content: thing, request: body }) => {
    if (work) art.set(work.ref, work.url, work.name);
    if (thing) content.set(thing.ref, thing.url, thing.name);
    if (body) refill(body);
  });
  function refill(body) {
    art.set(body.art, pictureUrl(body.art), "as before");
    content.set(body.content ?? null, body.content ? pictureUrl(body.content) : null, "as before");
    prompt.value = body.prompt ?? "";
    seed.value = body.seed ?? 0;
    if (body.method) {
      how.value = body.method;
      chosen();
    }
    settings.write(body.config);
  }

  const empty = h(
    "div",
    { class: "empty-stage" },
    h("p", { class: "lead" }, "Paint a thing into an artwork."),
    h(
      "p",
      {},
      "Drop an artwork, then a picture or a few words of what shall appear in it. The strip shows every strength from untouched to bold; the slider walks along it.",
    ),
  );
  return {
    el: h(
      "div",
      { class: "room two" },
      h("h1", { class: "unseen" }, "Paint"),
      form,
      h("div", { class: "stage" }, empty, big, view.el),
    ),
    title: "Paint",
    async show({ id }) {
      empty.hidden = Boolean(id);
      problem(trouble, methods("paint").length ? null : new Error("No checkpoint of this studio can paint."));
      await view.show(id || null);
      const entry = view.run ?? live.jobs.get(view.id);
      if (!art.ref && entry?.request?.verb === "paint") refill(entry.request);
      strips();
    },
  };
}
