// Explore: a word, a dial, and pictures that are still the word and yet not what everyone has seen.

import * as api from "../lib/api.js";
import { busy, field, h, options, problem } from "../lib/dom.js";
import * as live from "../lib/live.js";
import { backbone, fitting, go, method, methods, receive, state } from "../lib/state.js";
import { begin } from "../parts/actions.js";
import { dial } from "../parts/dial.js";
import { asked } from "../parts/history.js";
import { dropzone } from "../parts/drop.js";
import { image } from "../parts/pictures.js";
import { runView } from "../parts/runview.js";
import { settingsForm } from "../parts/settings.js";
import { awayAgain, clearSteering, onsteer, started, steering, steerList, unlike } from "../parts/steer.js";
import { tour } from "../parts/tour.js";
import { seedField, wordInput } from "../parts/words.js";

const TASTE = ["handbag", "castle", "chair", "vehicle", "alien", "fruit", "dinosaur", "building"];

/** What a finished run looks like: drawn by the small checkpoint that comes with Offbeat. */
function example() {
  const row = (name, look, count, label) =>
    h(
      "div",
      { class: `example-row ${look}`, role: "img", "aria-label": label },
      Array.from({ length: count }, (_, i) => image(`/static/example/${name}-${i}.webp`, "")),
    );
  return h(
    "figure",
    { class: "example" },
    h("p", { class: "hint" }, "Ordinary teapots"),
    row("ordinary", "ordinary", 4, "Four teapots, all red and of one shape"),
    h("p", { class: "hint" }, "Unusual teapots, at 2.0×"),
    row("found", "unusual", 8, "Eight teapots in blue, green, purple and orange, of other shapes"),
    h("figcaption", { class: "hint" }, "By pocket, the small checkpoint that comes with Offbeat: 8 of the 32 pictures of one run."),
  );
}

export function explore() {
  const view = runView();
  const able = state.about.backbones.filter((one) => one.capabilities.includes("explore"));
  const bone = () => backbone(fitting(how.value, checkpoint.value) ?? able[0]?.name);
  const subject = wordInput([], { required: true, placeholder: "handbag", "aria-label": "Word" });
  const novelty = dial(2);
  const directions = h("select", {}, options(["1", "2", "3", "4", "6"]));
  directions.value = "4";
  const num = h(
    "select",
    {},
    options([
      ["4", "4"],
      ["8", "8"],
      ["16", "16"],
      ["32", "32"],
    ]),
  );
  num.value = "8";
  const seed = seedField();
  const checkpoint = h("select", {}, options([["", "as fits"], ...able.map((one) => one.name)]));
  const how = h("select", {}, options(methods("explore").map((one) => [one.name, one.name])));
  const steps = h("input", { type: "number", min: 1, max: 10000, placeholder: "as usual" });
  const trials = h("input", { type: "number", min: 1, max: 16, value: 1 });
  const judge = h("select", {}, options(state.about.judges));
  const space = h("select", {}, options([["", "as usual"], "subject", "adjective", "lora", "token+lora", "direct"]));
  const settings = settingsForm();
  const trouble = h("div", {});
  const submit = h("button", { class: "primary big-button" }, "Go");
  const summary = h("p", { class: "hint" });

  const tastes = h("div", { class: "tastes", role: "group", "aria-label": "Words to try" });
  function suggest() {
    const known = bone();
    subject.suggest([...(known?.subjects ?? []), ...(known?.words ?? [])]);
    const words = TASTE.filter((word) => [...(known?.subjects ?? []), ...(known?.words ?? [])].includes(word));
    tastes.replaceChildren(
      ...words.map((word) =>
        h(
          "button",
          {
            type: "button",
            class: "small chip-button",
            onclick: () => {
              subject.value = word;
              subject.focus();
            },
          },
          word,
        ),
      ),
    );
  }
  checkpoint.addEventListener("change", suggest);
  const summed = () => {
    const one = method(how.value);
    summary.textContent = one?.summary ?? "";
    settings.show(one);
  };
  how.addEventListener("change", summed);
  if (how.querySelector("option[value=low-probability]")) how.value = "low-probability";
  suggest();
  summed();

  const drop = dropzone({
    label: "Unlike my pictures",
    hint: "Drop pictures that you have seen enough of.",
    multiple: true,
    take: async (files) => {
      const made = [];
      for (const file of files) made.push(await api.upload(file));
      unlike(made.map((one) => ({ ref: { upload: one.id }, text: one.name, url: one.url })));
    },
  });

  const taste = h("input", { type: "checkbox" });
  const tasteField = h("label", { class: "row" }, taste, "Choose by what I like and dislike");
  let tasteKept = null; // of a run that is shown again: the likes of then

  const far = (body) => (typeof (body.novelty ?? body.reach) === "number" ? `${body.novelty ?? body.reach}×` : "");
  const before = asked(
    "explore",
    (body) => [body.subject, body.method ?? far(body), `seed ${body.seed ?? 0}`].filter(Boolean).join(" · "),
    (body) => {
      clearSteering();
      fill(body);
      awayAgain(body);
    },
  );

  const form = h(
    "form",
    { class: "controls", "aria-label": "What to explore" },
    h("div", { class: "hero-field" }, h("label", { class: "lead", for: "explore-word" }, "Explore"), subject, tastes),
    novelty.el,
    h("div", { class: "go" }, submit, trouble),
    h("section", { class: "stack", "aria-label": "Steering" }, steerList(), drop, tasteField),
    h(
      "details",
      {},
      h("summary", {}, "More"),
      h(
        "div",
        { class: "stack" },
        field("Directions", directions, "Searches that keep away from each other: a row of pictures each."),
        field("Pictures", num, "Of each direction."),
        seed.el,
        field("Method", how, null),
        summary,
        field("Checkpoint", checkpoint),
        field("Judge", judge, "Looks at rendered pictures: is it still the subject?"),
        field("Steps", steps),
        field("Trials", trials, "Searches, of which the best is kept."),
        field("What is learned", space),
        settings.el,
        before.el,
      ),
    ),
  );
  taste.addEventListener("change", () => {
    tasteKept = null;
  });
  subject.id = "explore-word";
  subject.removeAttribute("aria-label");

  function request() {
    const body = {
      verb: "explore",
      subject: subject.value,
      num_images: Number(num.value),
      seed: seed.value,
    };
    const search = !how.value || how.value === "low-probability";
    if (!search) body.method = how.value;
    const where = fitting(how.value, checkpoint.value);
    if (where) body.backbone = where;
    if (judge.value !== "auto") body.judge = judge.value;
    const config = settings.read();
    if (Object.keys(config).length) body.config = config;
    if (!search) return body; // what follows is the search's alone
    body.novelty = novelty.value;
    Object.assign(body, { directions: Number(directions.value), candidates: 3, preview_every: 10 });
    if (steps.value) body.num_steps = Number(steps.value);
    if (Number(trials.value) > 1) body.num_trials = Number(trials.value);
    if (space.value) body.space = space.value;
    if (taste.checked) body.taste = tasteKept ?? "marks";
    if (steering.avoid.length) body.avoid = steering.avoid.map((one) => one.ref);
    if (steering.unlike.length) body.unlike = steering.unlike.map((one) => one.ref);
    return body;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(submit, trouble, async () => {
      const body = request();
      before.note(body);
      if (!steering.start) return begin(body);
      const { run, step = null, region = null } = steering.start;
      // what was taken off the list is sent as well: the server keeps what it is not told
      const { verb, ...changes } = { avoid: [], unlike: [], ...body };
      const entry = await api.goOn(run, { step, region, changes });
      live.keep(entry);
      started();
      return go("explore", entry.id);
    });
  });

  function fill(body) {
    subject.value = body.subject ?? subject.value;
    const dialled = body.novelty ?? body.reach;
    if (typeof dialled === "number" && dialled > 1) novelty.value = dialled;
    directions.value = String(body.directions ?? 1);
    if (!directions.value) directions.value = "4";
    num.value = String(body.num_images ?? 8);
    if (!num.value) num.value = "8";
    seed.value = body.seed ?? 0;
    if (body.method) how.value = body.method;
    checkpoint.value = able.some((one) => one.name === body.backbone) ? body.backbone : "";
    steps.value = body.num_steps ?? "";
    trials.value = String(body.num_trials ?? 1);
    judge.value = body.judge ?? "auto";
    space.value = body.space ?? "";
    tasteKept = body.taste ?? null;
    taste.checked = tasteKept !== null;
    suggest();
    summed();
    settings.write(body.config);
  }
  onsteer(() => {
    // a start is of one subject and one space: the form shows which
    if (steering.start?.request && !steering.start.filled) {
      steering.start.filled = true;
      fill(steering.start.request);
      awayAgain(steering.start.request);
    }
    submit.textContent = steering.start ? "Continue" : "Go";
  });
  receive("explore", ({ request: body, focus }) => {
    if (focus) submit.focus();
    if (!body) return;
    clearSteering();
    fill(body);
    awayAgain(body);
  });

  const surprise = h("button", { type: "button", class: "primary" }, "Surprise me");
  surprise.addEventListener("click", () => {
    const known = [...(bone()?.words ?? []), ...(bone()?.subjects ?? [])];
    const words = known.length ? known : TASTE;
    subject.value = words[Math.floor(Math.random() * words.length)];
    seed.value = Math.floor(Math.random() * 10000);
    form.requestSubmit();
  });
  const empty = h(
    "div",
    { class: "empty-stage" },
    h("p", { class: "lead" }, "Pictures that are still what was asked for, and yet not what everyone has seen."),
    example(),
    h(
      "div",
      { class: "row wrap center" },
      surprise,
      h("button", { type: "button", onclick: tour }, "Show me around"),
    ),
  );
  const el = h(
    "div",
    { class: "room two" },
    h("h1", { class: "unseen" }, "Explore"),
    form,
    h("div", { class: "stage" }, empty, view.el),
  );
  return {
    el,
    title: "Explore",
    show({ id }) {
      empty.hidden = Boolean(id);
      problem(trouble, null);
      if (!id) subject.focus({ preventScroll: true });
      // where the form is above the pictures, it would hide that they come
      if (id && matchMedia("(max-width: 860px)").matches) view.el.scrollIntoView();
      view.show(id || null).then(() => {
        // opened by its address: the form says how it was made
        const entry = view.run ?? live.jobs.get(view.id);
        if (!subject.value && entry?.request?.verb === "explore") fill(entry.request);
      });
    },
  };
}
