// Fuse: one thing of several, things that nobody named, and the way between two of them.

import * as api from "../lib/api.js";
import { busy, field, h, options, problem, say, segments, toast } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import * as live from "../lib/live.js";
import { backbone, fitting, go, here, method, methods, note, receive, wordsOf } from "../lib/state.js";
import { begin } from "../parts/actions.js";
import { dropzone } from "../parts/drop.js";
import { follower } from "../parts/follower.js";
import { mixer } from "../parts/mixer.js";
import { runView } from "../parts/runview.js";
import { settingsForm } from "../parts/settings.js";
import { trianglePad } from "../parts/triangle.js";
import { seedField, wordInput } from "../parts/words.js";

const MODES = [["mix", "Mix"], ["triangle", "Triangle"], ["dice", "Dice"], ["walk", "Walk"]];
const LAWS = [["gaussian", "Gaussian"], ["laplace", "Laplace"], ["cauchy", "Cauchy"]];
const spoken = (sources) => sources.filter((one) => one.share > 0).map((one) => `${percent(one.share)} ${one.word}`).join(", ");

export function fuse() {
  const view = runView();
  const following = follower();
  const caption = h("p", { class: "follow-caption" });
  const trouble = h("div", {});
  const can = () => backbone().capabilities.includes("sketch");
  let mode = "mix";

  // --- mix and triangle
  const how = h("select", { "aria-label": "Method" }, options(methods("fuse").map((one) => [one.name, one.name])));
  const quick = "distok";
  if (methods("fuse").some((one) => one.name === quick)) how.value = quick;
  const words = () => wordsOf(how.value);
  const pictures = [];
  const mix = mixer({ words, onchange: moved, fewest: () => Math.max(0, 2 - pictures.length) });
  const chips = h("ul", { class: "chips", "aria-label": "Pictures in the mixture" });
  const drop = dropzone({
    label: "Add a picture", hint: "As one of the sources.", take: async ([file]) => {
      const made = await api.upload(file);
      pictures.push({ ref: { upload: made.id }, name: made.name, url: made.url });
      drawChips();
    },
  });
  function drawChips() {
    chips.replaceChildren(...pictures.map((one) => h("li", { class: "chip" }, h("img", { src: one.url, alt: "" }), h("span", {}, one.name),
      h("button", { type: "button", class: "quiet", "aria-label": `Remove ${one.name}`, onclick: () => { pictures.splice(pictures.indexOf(one), 1); drawChips(); } }, "×"))));
    mix.paint();
    moved();
  }
  const about = h("p", { class: "hint" });
  const settings = settingsForm();
  const seed = seedField(moved);
  const num = h("select", {}, options(["1", "4", "8", "16"]));
  num.value = "8";

  const three = [0, 1, 2].map(() => wordInput(words(), { "aria-label": "Word of a corner", required: true }));
  let shares = [34, 33, 33];
  const pad = trianglePad((next) => { shares = next; moved(); });
  three.forEach((input) => input.addEventListener("change", () => { pad.set(corners(), shares); moved(); }));
  const corners = () => three.map((input) => input.value.trim());

  // --- dice
  let law = "gaussian";
  const throws = [];
  const dice = seedField(moved);
  const laws = segments("Law of the dice", LAWS, law, (value) => { law = value; moved(); });
  const throwButton = h("button", { type: "button", class: "primary big-button" }, "Throw");
  throwButton.addEventListener("click", () => { dice.value = Math.floor(Math.random() * 1e6); moved(); });
  const thrown = h("div", { class: "thrown", role: "group", "aria-label": "What was thrown before" });
  following.el.addEventListener("drawn", ({ detail }) => {
    if (detail.body.of !== "dream") return;
    const known = throws.some((one) => one.seed === detail.body.seed && one.law === detail.body.law);
    if (known) return;
    throws.unshift({ seed: detail.body.seed, law: detail.body.law });
    const copy = h("canvas", { width: following.canvas.width, height: following.canvas.height, class: "tiny", "aria-hidden": "true" });
    copy.getContext("2d").drawImage(following.canvas, 0, 0);
    const one = throws[0];
    const button = h("button", { type: "button", "aria-label": `Throw ${one.seed}, ${one.law}`, title: `${one.law}, ${one.seed}`, onclick: () => {
      law = one.law;
      laws.choose(law);
      dice.value = one.seed;
      moved();
    } }, copy);
    thrown.prepend(button);
    while (thrown.children.length > 16) { thrown.lastElementChild.remove(); throws.pop(); }
    fillEnds();
  });

  // --- walk
  const ends = [null, null].map((_, i) => h("select", { "aria-label": i ? "To" : "From" }));
  const endPictures = ends.map(() => h("img", { alt: "", class: "end", hidden: true }));
  const extra = [];
  let finds = [];
  const way = h("input", { type: "range", min: 0, max: 100, value: 50, step: 1, id: "walk-way" });
  way.addEventListener("input", moved);
  ends.forEach((select) => select.addEventListener("change", () => { select.dataset.chosen = "yes"; moved(); }));
  async function loadFinds() {
    const answer = await api.runs({ limit: 60 });
    // what an exploration learned is mostly no single token, and those have no way between them
    finds = answer.runs.filter((one) => one.num_concepts > 0 && one.verb !== "explore");
    fillEnds();
  }
  function choices() {
    const all = extra.map((one) => ({ key: JSON.stringify(one.ref), text: one.text, ref: one.ref, url: one.url }));
    for (const one of finds) {
      const ref = one.num_concepts > 1 ? { run: one.id, index: 0 } : { run: one.id };
      all.push({ key: JSON.stringify(ref), text: one.title, ref, url: one.cover });
    }
    for (const one of throws) {
      const ref = { of: "dream", law: one.law, seed: one.seed };
      all.push({ key: JSON.stringify(ref), text: `Throw ${one.seed} (${one.law})`, ref });
    }
    return [...new Map(all.map((one) => [one.key, one])).values()];
  }
  function fillEnds() {
    const all = choices();
    ends.forEach((select, i) => {
      const before = select.value;
      select.replaceChildren(...options(all.length ? all.map((one) => [one.key, one.text]) : [["", "nothing found yet"]]));
      if (all.some((one) => one.key === before)) select.value = before;
      else if (all.length) select.value = all[Math.min(i, all.length - 1)].key;
    });
    const [first, second] = ends;
    if (!second.dataset.chosen && second.value === first.value && all.length > 1) second.value = all.find((one) => one.key !== first.value).key;
    if (mode === "walk") moved();
  }
  const end = (i) => choices().find((one) => one.key === ends[i].value);

  // --- what is asked
  function sources() {
    if (mode === "triangle") return corners().map((word, i) => ({ word, share: shares[i] / 100 }));
    return mix.sources().filter((one) => one.word);
  }
  function sketch() {
    if (mode === "dice") return [{ of: "dream", law, seed: dice.value }, `Throw ${dice.value} of the ${law} law`];
    if (mode === "walk") {
      const [a, b] = [end(0), end(1)];
      if (!a || !b) return null;
      const share = Number(way.value) / 100;
      return [{ of: "walk", first: a.ref, second: b.ref, share, seed: seed.value }, `${percent(1 - share)} of ${a.text}, ${percent(share)} of ${b.text}`];
    }
    const parts = sources().filter((one) => one.share > 0);
    if (!parts.length || how.value !== quick || pictures.length) return null;
    return [{ of: "mixture", sources: parts, seed: seed.value }, spoken(parts)];
  }
  function moved() {
    if (!following) return;
    const wanted = sketch();
    ends.forEach((_, i) => {
      const one = end(i);
      endPictures[i].hidden = !one?.url;
      if (one?.url) endPictures[i].src = one.url;
    });
    way.setAttribute("aria-valuetext", `${way.value} percent of the second`);
    caption.textContent = wanted ? wanted[1] : mode === "walk" ? "Choose two finds to walk between." : "This method draws in the queue: press Draw.";
    following.el.classList.toggle("off", !wanted);
    if (wanted && can() && !room.hidden && begun) following.follow(...wanted);
    remember();
  }
  function remember() {
    if (here().room !== "fuse") return;
    const params = { mode };
    if (mode === "mix") params.mix = mix.values().map((one) => `${one.word}:${one.share}`).join(",");
    if (mode === "triangle") params.mix = corners().map((word, i) => `${word}:${shares[i]}`).join(",");
    if (mode === "dice") Object.assign(params, { law, seed: dice.value });
    else params.seed = seed.value;
    note("fuse", here().id, params);
  }

  // --- buttons
  const title = h("input", { placeholder: "moss owl", maxlength: 120, id: "find-name" });
  const keep = h("button", { type: "submit" }, "Keep");
  const draw = h("button", { type: "button", class: "primary" }, "Draw");
  const path = h("button", { type: "button" }, "Draw the path");
  const whole = h("button", { type: "button" }, "Draw the triangle");
  const keeping = h("form", { class: "keep" }, h("label", { for: title.id }, "Keep as a named concept"), h("div", { class: "joined" }, title, keep));
  const common = () => {
    const body = { seed: mode === "dice" ? dice.value : seed.value };
    if (mode === "mix" || mode === "triangle") {
      const config = settings.read();
      if (Object.keys(config).length) body.config = config;
      if (how.value !== quick) Object.assign(body, { method: how.value, backbone: fitting(how.value) });
    }
    return body;
  };
  const mixed = () => {
    const list = sources().filter((one) => one.share > 0);
    return { verb: "fuse", ...common(), sources: [...pictures.map((one) => ({ picture: one.ref })), ...list] };
  };
  function job() {
    if (mode === "dice") return { verb: "dream", num: Number(num.value) === 1 ? 1 : 16, law, ...common() };
    if (mode === "walk") return { verb: "walk", first: end(0)?.ref, second: end(1)?.ref, num: 9, seed: seed.value };
    return { ...mixed(), num_images: Number(num.value) };
  }
  draw.addEventListener("click", () => busy(draw, trouble, () => {
    if (mode === "walk" && [0, 1].some((i) => end(i)?.ref.of)) throw new Error("A throw of the dice is kept nowhere yet. Keep it as a named concept first, then walk from it.");
    return begin(job());
  }));
  path.addEventListener("click", () => busy(path, trouble, () => begin({ verb: "fuse", layout: "sweep", ...common(), sources: mix.sources().map(({ word }) => ({ word })), num: 9, num_images: 1 })));
  whole.addEventListener("click", () => busy(whole, trouble, () => begin({ verb: "fuse", layout: "grid", ...common(), num_images: 1, sources: (mode === "triangle" ? corners() : mix.sources().map((one) => one.word)).map((word) => ({ word })) })));
  keeping.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(keep, trouble, async () => {
      if (!title.value.trim()) throw new Error("A concept needs a name to be found by. Type one, then press Keep.");
      const body = mode === "dice" ? { ...job(), num: 1 } : { ...mixed(), num_images: 4 };
      await begin({ ...body, title: title.value.trim() }, true);
      toast(`“${title.value.trim()}” goes to the shelf.`, "Shelf", () => go("shelf"));
      title.value = "";
    });
  });

  const mixPanel = h("section", { class: "stack", "aria-label": "Mix" }, mix.el, h("div", { class: "stack", hidden: true }, chips, drop));
  const pictureHolder = mixPanel.lastElementChild;
  const trianglePanel = h("section", { class: "stack", "aria-label": "Triangle" }, h("div", { class: "row three" }, three), pad.el);
  const dicePanel = h("section", { class: "stack", "aria-label": "Dice" }, h("p", { class: "hint" }, "A throw lands somewhere in the space of tokens, where nothing has a name. The law says how far from the middle: Cauchy goes farthest."), laws, dice.el, throwButton, thrown);
  const walkPanel = h("section", { class: "stack", "aria-label": "Walk" },
    h("div", { class: "ends" }, h("div", { class: "field" }, h("span", { class: "label" }, "From"), ends[0], endPictures[0]), h("div", { class: "field" }, h("span", { class: "label" }, "To"), ends[1], endPictures[1])),
    h("div", { class: "field" }, h("label", { for: "walk-way" }, "How far on the way"), way));
  const methodPanel = h("details", {}, h("summary", {}, "More"), h("div", { class: "stack" }, field("Method", how), about, settings.el, seed.el, field("Pictures", num)));
  const panels = { mix: mixPanel, triangle: trianglePanel, dice: dicePanel, walk: walkPanel };
  const tabs = segments("What to do", MODES, mode, (value) => setMode(value));

  function setMode(value) {
    mode = panels[value] ? value : "mix";
    tabs.choose(mode);
    for (const [name, panel] of Object.entries(panels)) panel.hidden = name !== mode;
    const named = mode === "mix" || mode === "triangle";
    about.hidden = !named;
    how.closest(".field").hidden = !named;
    settings.el.classList.toggle("gone", !named);
    seed.el.hidden = mode === "dice";
    num.closest(".field").hidden = mode === "walk" || mode === "dice";
    path.hidden = mode !== "mix" || mix.values().length !== 2;
    whole.hidden = !(mode === "triangle" || (mode === "mix" && mix.values().length === 3));
    keeping.hidden = mode === "walk";
    draw.textContent = mode === "dice" ? "Draw 16 of this law" : mode === "walk" ? "Draw the walk" : "Draw";
    if (mode === "walk") loadFinds().catch((error) => problem(trouble, error));
    moved();
  }
  how.addEventListener("change", () => {
    const one = method(how.value);
    about.textContent = one?.summary ?? "";
    settings.show(one);
    pictureHolder.hidden = !one?.takes.includes("pictures");
    mix.suggest();
    three.forEach((input) => input.suggest(words()));
    setMode(mode);
  });
  mix.el.addEventListener("click", () => {
    path.hidden = mode !== "mix" || mix.values().length !== 2;
    whole.hidden = mode !== "triangle" && mix.values().length !== 3;
  });

  const stage = h("div", { class: "stage" },
    h("section", { class: "follow", "aria-label": "The picture that follows" }, following.el,
      h("div", { class: "follow-side" }, caption, h("div", { class: "row wrap" }, draw, path, whole), keeping, trouble,
        h("p", { class: "hint" }, "The large picture is a quick sketch. Draw makes pictures with all steps, and keeps them on the shelf."))),
    view.el);
  const room = h("div", { class: "room two fuse" }, h("h1", { class: "unseen" }, "Fuse"),
    h("form", { class: "controls", "aria-label": "What to fuse", onsubmit: (event) => event.preventDefault() }, tabs, Object.values(panels), methodPanel), stage);

  let begun = false;
  function start(params) {
    const known = words();
    const usual = ["pig", "owl", "bee"].map((word, i) => (known.includes(word) ? word : known[i] ?? ""));
    const given = (params.get("mix") ?? "").split(",").filter(Boolean).map((one) => {
      const cut = one.lastIndexOf(":");
      return { word: one.slice(0, cut), share: Math.max(0, Number(one.slice(cut + 1)) || 0) };
    });
    const asked = params.get("mode") ?? "mix";
    mix.set(asked === "mix" && given.length >= 2 ? given : [{ word: usual[0], share: 55 }, { word: usual[1], share: 45 }]);
    if (asked === "triangle" && given.length === 3) {
      three.forEach((input, i) => { input.value = given[i].word; });
      const first = Math.min(Math.round(given[0].share), 100);
      const second = Math.min(Math.round(given[1].share), 100 - first);
      shares = [first, second, 100 - first - second];
    } else three.forEach((input, i) => { input.value = usual[i]; });
    pad.set(corners(), shares);
    if (LAWS.some(([name]) => name === params.get("law"))) { law = params.get("law"); laws.choose(law); }
    const first = Number(params.get("seed") ?? 0) || 0;
    dice.value = first;
    seed.value = first;
    how.dispatchEvent(new Event("change"));
    begun = true;
    setMode(asked);
  }

  receive("fuse", ({ request, walk }) => {
    if (walk) {
      extra.unshift(walk);
      const slot = extra.length % 2 === 1 ? 0 : 1;
      setMode("walk");
      fillEnds();
      ends[slot].value = JSON.stringify(walk.ref);
      ends[slot].dataset.chosen = "yes";
      moved();
      say(`${slot ? "To" : "From"}: ${walk.text}`);
    }
    if (!request) return;
    seed.value = request.seed ?? 0;
    if (request.verb === "dream") {
      law = request.law ?? "gaussian";
      laws.choose(law);
      dice.value = request.seed ?? 0;
      setMode("dice");
    } else if (request.verb === "walk") setMode("walk");
    else {
      if (request.method) { how.value = request.method; how.dispatchEvent(new Event("change")); }
      pictures.splice(0, pictures.length, ...request.sources.filter((one) => one.picture)
        .map(({ picture }) => ({ ref: picture, name: "as before", url: api.pictureUrl(picture) })));
      drawChips();
      const named = request.sources.filter((one) => one.word);
      settings.write(request.config);
      if (request.layout === "grid") {
        three.forEach((input, i) => { input.value = named[i]?.word ?? ""; });
        pad.set(corners(), shares);
        setMode("triangle");
      } else {
        mix.set(named.map((one) => ({ word: one.word, share: one.share ?? 1 })));
        setMode("mix");
      }
    }
  });
  live.on("finished", () => { if (mode === "walk" && !room.hidden) loadFinds().catch(() => {}); });

  return {
    el: room, title: "Fuse",
    show({ id, params }) {
      if (!begun) start(params);
      else if (params.get("mode") && params.get("mode") !== mode) setMode(params.get("mode"));
      view.show(id || null);
      moved();
    },
    hide: () => following.stop(),
  };
}
