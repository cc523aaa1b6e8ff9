// One run, while it is drawn and afterwards: its pictures, its map and curve, what the judge says.

import * as api from "../lib/api.js";
import { busy, fault, fill, h, problem, say, segments } from "../lib/dom.js";
import { judge, left, number, stage, STATES, VERBS, verdict, when } from "../lib/format.js";
import * as live from "../lib/live.js";
import { go, hand } from "../lib/state.js";
import { begin, exportDialog, pictureRef, renderDialog, runActions } from "./actions.js";
import { askedOf, layTriangle } from "./asked.js";
import { curveChart } from "./curve.js";
import { notifyButton } from "./notify.js";
import { lightbox } from "./lightbox.js";
import { mapChart } from "./map.js";
import { directionRows, directionsOf, imagesOf, inShort, ofDirection, trialsOf } from "./directions.js";
import { howMeasured } from "./measured.js";
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
  let at = null; // a search and its step that was chosen
  let way = null; // the search whose steps are listed
  const picked = new Set();

  const title = h("h2", { tabindex: "-1" });
  const sub = h("p", { class: "hint" });
  const bar = h("progress", { "aria-label": "Progress" });
  const told = h("p", { class: "told" });
  const controls = h("div", { class: "row" });
  const trouble = h("div", {});
  const status = h("div", { class: "status" }, h("div", { class: "status-line" }, told, controls), bar, trouble);
  const verdicts = h("p", { class: "verdicts", "aria-live": "polite" });
  const options = {
    title: () => (run ?? job)?.title ?? "",
    subject: () => (run ?? job)?.subject ?? "thing",
    picked,
    onopen: (picture, list) => open(picture, list),
    onpick: picks,
    note: noteOf,
  };
  const grids = {
    ordinary: pictureGrid({ ...options, label: "Ordinary pictures" }),
    images: pictureGrid({ ...options, label: "Pictures found" }),
  };
  const heads = { ordinary: h("h3", {}, "Ordinary"), images: h("h3", {}, "Pictures") };
  const plain = h(
    "div",
    { class: "twins under" },
    h("section", { "aria-label": "Ordinary", class: "twin" }, heads.ordinary, grids.ordinary.el),
    h("section", { "aria-label": "Found", class: "twin" }, heads.images, grids.images.el),
  );
  const rows = directionRows({ ...options, several: () => directionsOf(run ?? job) > 1 });
  const pictures = h("div", {}, plain, rows.el);
  const strip = h("div", { class: "steps", hidden: true });
  const marked = h("div", { class: "pickbar", hidden: true, role: "group", "aria-label": "The region" });
  const map = mapChart({
    marked,
    onregion: (shape, text) => {
      region = shape ? { shape, text } : null;
      picks();
    },
    onstep: (which) => chooseStep(which, false),
  });
  const curve = curveChart();
  const measures = howMeasured(curve);
  const charts = h("div", { class: "charts", hidden: true }, map.el);
  const words = h("div", { class: "words" });
  const views = h("div", { class: "charts", hidden: true });
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
    words,
    actions,
    views,
    strip,
    charts,
    measures.el,
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
    if (typeof picture.seen === "number") parts.push(h("span", {}, `${number(picture.seen)}×`));
    else if (!explores()) {
      if (picture.asked) parts.push(h("strong", {}, picture.asked));
      if (picture.caption) parts.push(h("span", {}, picture.asked ? `reads as ${picture.caption}` : picture.caption));
    }
    return parts.length ? parts : null;
  }

  function previews() {
    return all()
      .filter((one) => one.kind === "previews")
      .sort((a, b) => (a.trial ?? 0) - (b.trial ?? 0) || a.step - b.step || a.index - b.index);
  }

  function drawPictures() {
    const ordinary = all().filter((one) => one.kind === "ordinary");
    const images = all().filter((one) => one.kind === "images");
    const made = previews();
    plain.hidden = explores();
    rows.el.hidden = !explores();
    if (explores()) rows.show({ ordinary, rows: directionsShown(images, made) });
    else {
      heads.ordinary.textContent = ["fuse", "paint"].includes(now()?.verb) ? "What it was made of" : "Ordinary";
      plain.firstElementChild.hidden = ordinary.length === 0;
      grids.ordinary.show(ordinary);
      grids.images.show(images);
      heads.images.parentElement.classList.toggle("empty", !images.length);
      layTriangle(now(), images, grids.images.list);
    }
    drawSteps(made);
  }

  /** What each row shows: a step that was chosen, what was found, or how far the search is. */
  function directionsShown(images, made) {
    const one = now();
    const count = directionsOf(one);
    const shown = [];
    for (let direction = 0; direction < count; direction++) {
      const found = imagesOf(one, images, direction);
      const drawn = made.filter((preview) => ofDirection(one, direction, preview.trial));
      const newest = drawn[drawn.length - 1];
      const shownAt = at && ofDirection(one, direction, at.trial) ? at : found.length ? null : newest;
      const seen = shownAt ? drawn.filter((preview) => preview.trial === shownAt.trial && preview.step === shownAt.step) : found;
      if (!seen.length && direction) continue; // it has not begun
      const told = run?.summary?.directions?.[direction];
      const state = shownAt ? (shownAt.step ? `as of step ${shownAt.step}` : "where the search starts") : inShort(told);
      const name = count > 1 ? `Direction ${direction + 1}` : "Unusual";
      shown.push({ name, note: state, pictures: seen, actions: run && told ? directionActions(direction, told) : [] });
    }
    return shown;
  }

  function directionActions(direction, told) {
    const text = directionsOf(run) > 1 ? `direction ${direction + 1} of ${run.title}` : `the end of ${run.title}`;
    const more = () => {
      startFrom({ run: id, trial: told.trial }, text, run.request);
      go("explore", id);
      hand("explore", { focus: true });
    };
    const concept = run.num_concepts > direction;
    return [
      ["More like this", more],
      ...(concept && directionsOf(run) > 1
        ? [
            ["Another prompt", () => renderDialog(run, { kind: "images", concept: direction })],
            ["Export", () => exportDialog(run, direction)],
          ]
        : []),
    ];
  }

  /** The same subject, away from what this run found. */
  function otherDirections() {
    const { verb, subject, start: _, ...request } = run.request;
    const seed = ((request.seed ?? 0) + directionsOf(run) * trialsOf(run)) % 2 ** 32;
    return begin({ ...request, verb, subject, seed, avoid: [...(request.avoid ?? []), { run: id }] });
  }

  function drawSteps(made) {
    const seen = made.filter((one) => one.step > 0);
    const trials = [...new Set(seen.map((one) => one.trial ?? 0))].sort((a, b) => a - b);
    strip.hidden = trials.length === 0;
    if (strip.hidden) return;
    const trial = at?.trial ?? (trials.includes(way) ? way : trials[trials.length - 1]);
    const steps = [
      ...new Map(
        made.filter((one) => (one.trial ?? 0) === trial && one.index === 0).map((one) => [one.step, one]),
      ).values(),
    ].sort((a, b) => a.step - b.step);
    const chosen = at && at.trial === trial && steps.some((one) => one.step === at.step) ? at.step : null;
    const key = JSON.stringify([id, trials, trial, steps.map((one) => one.step), chosen, Boolean(run)]);
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
          "aria-label": one.step ? `Step ${one.step}` : "Start",
          onclick: () => chooseStep(one.step === chosen ? null : { trial, step: one.step }),
        },
        image(one.url, ""),
        h("span", {}, one.step ? String(one.step) : "start"),
      ),
    );
    const nameOf = (which) =>
      trialsOf(now()) > 1 ? `Search ${which + 1}` : `${which + 1}`;
    const choice =
      trials.length > 1
        ? segments(
            "Whose steps",
            trials.map((which) => [String(which), nameOf(which)]),
            String(trial),
            (which) => {
              way = Number(which);
              at = null;
              drawPictures();
            },
          )
        : null;
    const goOn = chosen ? { trial, step: chosen } : { trial };
    fill(
      strip,
      h(
        "div",
        { class: "panel-head" },
        h("h3", {}, trials.length > 1 && trialsOf(now()) === 1 ? "The way there, by direction" : "The way there"),
        choice,
        h(
          "div",
          { class: "row" },
          run || chosen
            ? h(
                "button",
                { type: "button", class: "small", onclick: () => more(goOn) },
                chosen ? `Continue from step ${chosen}` : "Continue from the end",
              )
            : null,
          chosen
            ? h(
                "button",
                {
                  type: "button",
                  class: "small",
                  onclick: () => {
                    lessOf({ run: id, trial, step: chosen }, `${now().title}, step ${chosen}`);
                    go("explore", id);
                  },
                },
                "Less of this step",
              )
            : null,
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

  function chooseStep(which, tellMap = true) {
    at = which;
    if (which) way = which.trial;
    if (tellMap) map.at(which);
    drawPictures();
  }
  function more(from) {
    startFrom(
      { run: id, ...from },
      from.step ? `step ${from.step} of ${now().title}` : `the end of ${now().title}`,
      now().request,
    );
    go("explore", id);
    hand("explore", { focus: true });
  }

  function picks() {
    const chosen = all()
      .concat(previews())
      .filter((one, i, list) => picked.has(keyOf(one)) && list.findIndex((other) => keyOf(other) === keyOf(one)) === i);
    for (const grid of [grids.ordinary, grids.images, ...rows.grids]) grid.paint();
    const bar = region ? marked : pickbar; // buttons of a lasso stand at the map
    const other = region ? pickbar : marked;
    const focused = other.contains(document.activeElement) || bar.contains(document.activeElement);
    other.hidden = true;
    bar.hidden = !chosen.length && !region;
    if (bar.hidden) {
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
      else if (previewed) Object.assign(what, { step: previewed.step, trial: previewed.trial ?? 0 });
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
      bar,
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
      run && !run.own ? (run.brought ? "of the command line" : "shared by someone else") : "",
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
      controls.replaceChildren(...[want === "Cancel" ? notifyButton() : null, want ? work : null].filter(Boolean));
    }
    const focused = [...actions.querySelectorAll("button, a")].indexOf(document.activeElement);
    fill(
      actions,
      run && runActions(run, { stay: !inShelf, change: (what) => busy(actions, trouble, () => api.change(id, what)) }),
    );
    if (focused >= 0) actions.querySelectorAll("button, a")[focused]?.focus();
    drawWords();
    drawViews();
  }

  /** An archive's own pictures of itself: its concepts at their places, and the quality of each. */
  function drawViews() {
    const shown = now().verb === "archive" ? ["contact.png", "map.png"] : [];
    const found = (run?.files ?? []).filter((one) => shown.includes(one.name));
    views.hidden = !found.length;
    fill(
      views,
      found.map((one) =>
        h(
          "a",
          { href: one.url, target: "_blank", rel: "noopener", class: "panel" },
          h("img", { src: one.url, alt: one.name === "map.png" ? "Quality by place" : "Concepts at their places" }),
        ),
      ),
    );
  }

  /** Warnings; and where the pictures are too alike, the button that mends it. */
  function drawWords() {
    const alike = explores() && typeof run?.summary?.variety === "number" && run.summary.variety < 1;
    const warnings = (run?.warnings ?? []).filter((text) => !text.startsWith("These pictures are less varied"));
    const other = h("button", { type: "button", class: alike ? "primary" : "" }, "Try other directions");
    const wrong = h("div", {});
    other.addEventListener("click", () => busy(other, wrong, otherDirections));
    fill(
      words,
      run && explores() && run.own && !run.method?.startsWith("raw")
        ? h(
            "div",
            { class: "row wrap next" },
            alike ? h("p", {}, "These pictures are more alike than ordinary ones.") : null,
            other,
            wrong,
          )
        : null,
      warnings.length
        ? h(
            "ul",
            { class: "warnings", "aria-label": "Warnings" },
            warnings.map((text) => h("li", {}, text)),
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
    if (judged.length && !run)
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
    if (run) verdicts.replaceChildren();
    measures.set(explores() ? run : null);
    redraw();
    if (explores() && measured()) await charted();
  }

  /** Show a run or a job; null shows nothing. */
  async function show(which) {
    if (which === id && which !== null) return;
    id = which;
    job = run = region = at = way = null;
    picked.clear();
    rows.clear();
    measures.set(null);
    strip.dataset.key = "";
    el.hidden = !which;
    verdicts.replaceChildren();
    map.set(null);
    curve.set(null);
    charts.hidden = true;
    if (!which) return;
    problem(trouble, null);
    try {
      job = live.jobs.get(which) ?? null;
      if (!job) {
        // a run of somebody else, or an old one, is no job of this session
        const known = await api.run(which);
        if (known.own && known.state !== "finished") job = await api.job(which);
      }
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
      curve.add({ step: data.step, trial: data.trial ?? 0, verdict: data });
    }),
  );
  for (const name of ["finished", "failed", "cancelled", "interrupted"]) {
    live.on(
      name,
      mine(async () => {
        job = live.jobs.get(id) ?? job;
        if (name === "finished") {
          at = null;
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
