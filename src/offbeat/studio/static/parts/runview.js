// One run, while it is drawn and afterwards: its pictures, its map and curve, what the judge says.

import * as api from "../lib/api.js";
import { busy, fault, fill, h, problem, say } from "../lib/dom.js";
import { judge, left, number, stage, STATES, VERBS, verdict, when } from "../lib/format.js";
import * as live from "../lib/live.js";
import { go, hand } from "../lib/state.js";
import { pictureRef, runActions } from "./actions.js";
import { askedOf, layTriangle } from "./asked.js";
import { curveChart } from "./curve.js";
import { lightbox } from "./lightbox.js";
import { mapChart } from "./map.js";
import { badge, image, keyOf, pictureGrid } from "./pictures.js";
import { lessOf, startFrom, unlike } from "./steer.js";

const OVER = ["finished", "failed", "cancelled", "interrupted"];

/** A box around some points, as a lasso: for pictures that were picked. */
function around(points, room = 0.35) {
  const xs = points.map((one) => one[0]);
  const ys = points.map((one) => one[1]);
  const [left_, right, low, high] = [
    Math.min(...xs) - room,
    Math.max(...xs) + room,
    Math.min(...ys) - room,
    Math.max(...ys) + room,
  ];
  return [
    [left_, low],
    [right, low],
    [right, high],
    [left_, high],
  ];
}

export function runView({ inShelf = false } = {}) {
  let id = null;
  let job = null; // while it runs
  let run = null; // when it is over, with everything
  let region = null;
  let step = null;
  const picked = new Set();

  const title = h("h2", { tabindex: "-1" });
  const sub = h("p", { class: "hint" });
  const bar = h("progress", { "aria-label": "Progress" });
  const told = h("p", { class: "told" });
  const controls = h("div", { class: "row" });
  const trouble = h("div", {});
  const status = h("div", { class: "status" }, h("div", { class: "status-line" }, told, controls), bar, trouble);
  const verdicts = h("p", { class: "verdicts", "aria-live": "polite" });
  const grids = {};
  for (const [kind, label] of [
    ["ordinary", "Ordinary pictures"],
    ["images", "Pictures found"],
  ]) {
    grids[kind] = pictureGrid({
      label,
      title: () => (run ?? job)?.title ?? "",
      subject: () => (run ?? job)?.subject ?? "thing",
      picked,
      onopen: (picture, list) => open(picture, list),
      onpick: picks,
      note: noteOf,
    });
  }
  const heads = { ordinary: h("h3", {}, "Ordinary"), images: h("h3", {}, "Unusual") };
  const pictures = h(
    "div",
    { class: "twins" },
    h("section", { "aria-label": "Ordinary", class: "twin" }, heads.ordinary, grids.ordinary.el),
    h("section", { "aria-label": "Found", class: "twin" }, heads.images, grids.images.el),
  );
  const strip = h("div", { class: "steps", hidden: true });
  const map = mapChart({
    onregion: (shape, text) => {
      region = shape ? { shape, text } : null;
      picks();
    },
    onstep: (at) => chooseStep(at, false),
  });
  const curve = curveChart();
  const charts = h("div", { class: "charts", hidden: true }, map.el, curve.el);
  const words = h("div", { class: "words" });
  const actions = h("div", {});
  const pickbar = h("div", { class: "pickbar", hidden: true, role: "group", "aria-label": "What is picked" });
  const el = h(
    "article",
    { class: "run", hidden: true },
    h("header", { class: "run-head" }, title, sub),
    status,
    verdicts,
    pictures,
    pickbar,
    strip,
    charts,
    words,
    actions,
  );

  const now = () => run ?? job;
  const measured = () => previews().some((one) => one.step > 0);
  const explores = () => now()?.verb === "explore";
  const all = () =>
    [...(run?.pictures?.length ? run.pictures : (job?.pictures ?? []))]
      .sort((a, b) => a.index - b.index)
      .map((one, _, list) => ({ ...one, asked: askedOf(now(), one, list, Boolean(run)) }));

  function noteOf(picture) {
    const parts = [];
    if (picture.verdict && picture.verdict.answer !== "yes") parts.push(badge(picture.verdict, now().subject));
    if (explores() && typeof picture.distance === "number") parts.push(h("span", {}, number(picture.distance)));
    else if (!explores()) {
      if (picture.asked) parts.push(h("strong", {}, picture.asked));
      if (picture.caption) parts.push(h("span", {}, picture.asked ? `reads as ${picture.caption}` : picture.caption));
    }
    return parts.length ? parts : null;
  }

  function previews() {
    const made = all().filter((one) => one.kind === "previews");
    if (run?.steps?.length)
      return run.steps.filter((one) => one.url).map((one) => ({ kind: "previews", index: 0, ...one }));
    return made;
  }

  function drawPictures() {
    const ordinary = all().filter((one) => one.kind === "ordinary");
    let found = all().filter((one) => one.kind === "images");
    const made = previews();
    let head = explores() ? "Unusual" : "Pictures";
    const last = made.length ? Math.max(...made.map((one) => one.step)) : null;
    if (explores() && (step !== null || !found.length) && last !== null) {
      const at = made.some((one) => one.step === step) ? step : last;
      found = made.filter((one) => one.step === at);
      head = at ? `Unusual, as of step ${at}` : "Where the search starts";
    }
    heads.images.textContent = head;
    heads.ordinary.textContent = ["fuse", "paint"].includes(now()?.verb) ? "What it was made of" : "Ordinary";
    pictures.classList.toggle("both", explores());
    pictures.classList.toggle("under", !explores());
    pictures.firstElementChild.hidden = ordinary.length === 0;
    grids.ordinary.show(ordinary);
    grids.images.show(found);
    heads.images.parentElement.classList.toggle("empty", !found.length);
    layTriangle(now(), found, grids.images.list);
    drawSteps(made);
  }

  function drawSteps(made) {
    const steps = [...new Map(made.filter((one) => one.step > 0).map((one) => [one.step, one])).values()].sort(
      (a, b) => a.step - b.step,
    );
    strip.hidden = steps.length === 0;
    if (strip.hidden) return;
    const chosen = steps.some((one) => one.step === step) ? step : null;
    const key = JSON.stringify([id, steps.map((one) => one.step), chosen, Boolean(run)]);
    if (strip.dataset.key === key) return;
    strip.dataset.key = key;
    const focused = strip.contains(document.activeElement) ? document.activeElement.dataset?.step : null;
    const stop = chosen ?? steps[steps.length - 1].step; // one stop for Tab; arrow keys from there
    const buttons = steps.map((one) =>
      h(
        "button",
        {
          type: "button",
          class: "step",
          tabindex: one.step === stop ? 0 : -1,
          "data-step": one.step,
          "aria-pressed": String(one.step === chosen),
          "aria-label": `Step ${one.step}`,
          onclick: () => chooseStep(step === one.step ? null : one.step),
        },
        image(one.url, ""),
        h("span", {}, String(one.step)),
      ),
    );
    fill(
      strip,
      h(
        "div",
        { class: "panel-head" },
        h("h3", {}, "Steps that were kept"),
        h(
          "div",
          { class: "row" },
          h(
            "button",
            { type: "button", onclick: () => more(chosen) },
            chosen === null ? "Continue from the end" : `Continue from step ${chosen}`,
          ),
          chosen === null
            ? null
            : h(
                "button",
                {
                  type: "button",
                  onclick: () => {
                    lessOf({ run: id, step: chosen }, `${now().title}, step ${chosen}`);
                    go("explore", id);
                  },
                },
                "Less of this step",
              ),
        ),
      ),
      h("div", { class: "steps-row", role: "toolbar", "aria-label": "Steps", onkeydown: alongSteps }, buttons),
    );
    if (focused) strip.querySelector(`[data-step="${focused}"]`)?.focus();
    const row = strip.querySelector(".steps-row");
    if (chosen === null) row.scrollLeft = row.scrollWidth;
  }

  function alongSteps(event) {
    const all = [...event.currentTarget.children];
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || !all[to]) return;
    event.preventDefault();
    all.forEach((one, i) => {
      one.tabIndex = i === to ? 0 : -1;
    });
    all[to].focus();
  }

  function chooseStep(at, tellMap = true) {
    step = at;
    if (tellMap) map.at(at);
    drawPictures();
  }
  function more(at) {
    startFrom(
      { run: id, step: at },
      at === null ? `the end of ${now().title}` : `step ${at} of ${now().title}`,
      now().request,
    );
    go("explore", id);
  }

  function picks() {
    const chosen = all()
      .concat(previews())
      .filter((one, i, list) => picked.has(keyOf(one)) && list.findIndex((other) => keyOf(other) === keyOf(one)) === i);
    grids.ordinary.paint();
    grids.images.paint();
    const focused = pickbar.contains(document.activeElement);
    pickbar.hidden = !chosen.length && !region;
    if (pickbar.hidden) {
      if (focused) title.focus({ preventScroll: true });
      return;
    }
    const placed = chosen.filter((one) => one.axes);
    const previewed = chosen.find((one) => one.kind === "previews");
    const text = region ? `A region: ${region.text}` : `${chosen.length} picked`;
    const less = () => {
      if (region) lessOf({ run: id, region: region.shape }, `a region of ${now().title}`);
      if (chosen.length)
        unlike(
          chosen.map((one) => ({ ref: pictureRef(now(), one), text: `${now().title} ${one.index + 1}`, url: one.url })),
        );
      steer();
    };
    const like = () => {
      const what = { run: id };
      if (region) Object.assign(what, { region: region.shape });
      else if (previewed) what.step = previewed.step;
      else if (placed.length) what.region = around(placed.map((one) => one.axes));
      startFrom(
        what,
        region
          ? `a region of ${now().title}`
          : previewed
            ? `step ${previewed.step} of ${now().title}`
            : `${chosen.length} picked of ${now().title}`,
        now().request,
      );
      steer();
    };
    const steer = () => {
      clear();
      go("explore", id);
      hand("explore", { focus: true });
    };
    const clear = () => {
      picked.clear();
      if (region) map.clear();
      picks();
    };
    const likes = explores() && (region || previewed || placed.length);
    fill(
      pickbar,
      h("p", {}, text),
      h("button", { type: "button", onclick: less }, "Less of this"),
      likes ? h("button", { type: "button", onclick: like }, "More like this") : null,
      h("button", { type: "button", class: "quiet", onclick: clear }, "Clear"),
    );
  }

  const open = (picture, list) => lightbox(now(), picture, list, { picked, changed: picks });

  function drawStatus() {
    const one = now();
    if (!one) return;
    title.textContent = one.title || VERBS[one.verb];
    const state = run ? "finished" : job.state;
    sub.textContent = [
      VERBS[one.verb],
      run?.method,
      run?.backbone,
      when(one.created),
      run && !run.own ? "shared by someone else" : "",
    ]
      .filter(Boolean)
      .join(" · ");
    const running = state === "running";
    bar.hidden = !running && state !== "queued";
    if (running && job.total) {
      bar.max = job.total;
      bar.value = job.done;
    } else bar.removeAttribute("value");
    if (running)
      told.textContent = [
        stage(job.stage) || "starting",
        job.total ? `${job.done} of ${job.total}` : "",
        left(job.seconds_left),
      ]
        .filter(Boolean)
        .join(" · ");
    else if (state === "queued") told.textContent = `Waiting${job.position ? `; ${job.position} before it` : ""}`;
    else if (run)
      told.textContent = job && job.state !== "finished" ? `${STATES[job.state]}; what it kept is here` : run.in_words;
    else told.textContent = STATES[state];
    problem(trouble, state === "failed" ? fault(job.error) : null);
    const want =
      job && ["queued", "running"].includes(job.state)
        ? "Cancel"
        : job && OVER.includes(job.state) && job.state !== "finished"
          ? "Resume"
          : "";
    if (controls.dataset.want !== want) {
      controls.dataset.want = want;
      const work = h("button", { type: "button" }, want);
      work.addEventListener("click", () =>
        busy(work, trouble, async () => live.keep(await (want === "Cancel" ? api.cancel(id) : api.resume(id)))),
      );
      controls.replaceChildren(...(want ? [work] : []));
    }
    const focused = [...actions.querySelectorAll("button, a")].indexOf(document.activeElement);
    fill(
      actions,
      run && runActions(run, { stay: !inShelf, change: (what) => busy(actions, trouble, () => api.change(id, what)) }),
    );
    if (focused >= 0) actions.querySelectorAll("button, a")[focused]?.focus();
    fill(
      words,
      run?.warnings?.length
        ? h(
            "ul",
            { class: "warnings", "aria-label": "Warnings" },
            run.warnings.map((text) => h("li", {}, text)),
          )
        : null,
    );
  }

  function tellVerdict(one, quietly) {
    const text = verdict(one, now()?.subject ?? "thing");
    fill(
      verdicts,
      badge(one, now()?.subject ?? ""),
      h("span", {}, ` Step ${one.step}: ${text}`),
      one.judge ? h("span", { class: "hint" }, ` by the ${judge(one.judge)}`) : null,
      one.note ? h("span", { class: "hint" }, ` · ${one.note}`) : null,
    );
    if (quietly) verdicts.setAttribute("aria-busy", "false");
  }

  async function charted() {
    const asked = id;
    const [places, readings] = await Promise.all([
      api.map(asked).catch(() => null),
      api.curve(asked).catch(() => null),
    ]);
    if (asked !== id) return;
    charts.hidden = !places && !readings?.rows?.length;
    map.set(places);
    curve.set(readings);
    const judged = (readings?.rows ?? []).filter((row) => row.verdict);
    if (judged.length)
      tellVerdict({ step: judged[judged.length - 1].step, ...judged[judged.length - 1].verdict }, true);
  }

  function redraw() {
    drawStatus();
    drawPictures();
    picks();
  }

  async function finish() {
    const asked = id;
    const whole = await api
      .run(asked)
      .catch((error) => (job && job.state !== "finished" ? null : Promise.reject(error)));
    if (asked !== id) return;
    run = whole;
    redraw();
    if (explores() && measured()) await charted();
  }

  /** Show a run or a job; null shows nothing. */
  async function show(which) {
    if (which === id && which !== null) return;
    id = which;
    job = run = region = step = null;
    picked.clear();
    strip.dataset.key = "";
    el.hidden = !which;
    verdicts.replaceChildren();
    map.set(null);
    curve.set(null);
    charts.hidden = true;
    if (!which) return;
    problem(trouble, null);
    try {
      job =
        live.jobs.get(which) ??
        (await api.job(which).catch((error) => (error.status === 404 ? null : Promise.reject(error))));
      if (id !== which) return;
      if (!job || OVER.includes(job.state)) await finish();
      else {
        redraw();
        // before the ordinary is measured there is neither map nor curve; an event tells when
        if (explores() && measured()) await charted();
      }
    } catch (error) {
      if (id !== which) return;
      for (const part of [title, sub, told]) part.textContent = "";
      bar.hidden = true;
      controls.replaceChildren();
      problem(trouble, error);
    }
  }

  const mine = (hear) => (data) => {
    if (id && data.job === id) hear(data);
  };
  live.on("jobs", (entry) => {
    if (!id || (entry && entry.id !== id)) return;
    job = live.jobs.get(id) ?? job;
    if (!now() || (run && job?.state === "finished")) return;
    if (run && job && ["queued", "running"].includes(job.state)) run = null; // it was resumed
    drawStatus();
  });
  live.on(
    "picture",
    mine(async (data) => {
      // fetched before it is shown: else every new step would begin with a blank
      const soon = new Image();
      soon.src = data.url;
      await soon.decode().catch(() => {});
      if (id !== data.job) return;
      drawPictures();
      if (data.index === 0 && data.kind === "images") say("The first pictures are there");
    }),
  );
  live.on("map", mine(charted));
  live.on(
    "point",
    mine((data) => {
      map.add(data);
      curve.add(data);
      charts.hidden = false;
    }),
  );
  live.on(
    "progress",
    mine((data) => {
      if (typeof data.values?.step === "number") {
        curve.add({ trial: 0, ...data.values });
        if (explores()) charts.hidden = false;
      }
    }),
  );
  live.on(
    "verdict",
    mine((data) => {
      tellVerdict(data);
      curve.add({ step: data.step, verdict: data });
    }),
  );
  for (const name of ["finished", "failed", "cancelled", "interrupted"]) {
    live.on(
      name,
      mine(async () => {
        job = live.jobs.get(id) ?? job;
        if (name === "finished") {
          step = null;
          map.at(null);
          say(`${job?.title ?? "The run"} is finished`);
        }
        await finish().catch((error) => problem(trouble, error));
      }),
    );
  }
  live.on("changed", async (data) => {
    if (id && data.run === id && run) await finish().catch(() => {});
  });
  live.on("reset", () => {
    if (!id) return;
    const again = id;
    id = null;
    show(again);
  });

  return {
    el,
    show,
    hand,
    get id() {
      return id;
    },
    get run() {
      return run;
    },
    heading: title,
  };
}
