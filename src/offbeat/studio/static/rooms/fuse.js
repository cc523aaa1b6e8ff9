// Fuse: one thing of several, things that nobody named, and the way between two of them.

import * as api from "../lib/api.js";
import { busy, field, h, options, problem, say, segments, toast } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import * as live from "../lib/live.js";
import { backbone, fitting, go, here, method, methods, note, receive, wordsOf } from "../lib/state.js";
import { begin } from "../parts/actions.js";
import { diceBox } from "../parts/dice.js";
import { dropzone } from "../parts/drop.js";
import { follower } from "../parts/follower.js";
import { mixer } from "../parts/mixer.js";
import { runView } from "../parts/runview.js";
import { settingsForm } from "../parts/settings.js";
import { trianglePad } from "../parts/triangle.js";
import { walkBox } from "../parts/walk.js";
import { seedField, wordInput } from "../parts/words.js";

const MODES = [
  ["mix", "Mix"],
  ["triangle", "Triangle"],
  ["dice", "Dice"],
  ["walk", "Walk"],
];
const spoken = (sources) =>
  sources
    .filter((one) => one.share > 0)
    .map((one) => `${percent(one.share)} ${one.word}`)
    .join(", ");

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
    label: "Add a picture",
    hint: "As one of the sources.",
    take: async ([file]) => {
      const made = await api.upload(file);
      pictures.push({ ref: { upload: made.id }, name: made.name, url: made.url });
      drawChips();
    },
  });
  function drawChips() {
    chips.replaceChildren(
      ...pictures.map((one) =>
        h(
          "li",
          { class: "chip" },
          h("img", { src: one.url, alt: "" }),
          h("span", {}, one.name),
          h(
            "button",
            {
              type: "button",
              class: "quiet",
              "aria-label": `Remove ${one.name}`,
              onclick: () => {
                pictures.splice(pictures.indexOf(one), 1);
                drawChips();
              },
            },
            "×",
          ),
        ),
      ),
    );
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
  const pad = trianglePad((next) => {
    shares = next;
    moved();
  });
  three.forEach((input) =>
    input.addEventListener("change", () => {
      pad.set(corners(), shares);
      moved();
    }),
  );
  const corners = () => three.map((input) => input.value.trim());

  // --- dice and walk
  const dice = diceBox(moved);
  const walk = walkBox({ onchange: moved, throws: dice.throws });
  following.el.addEventListener("drawn", ({ detail: { body } }) => {
    if (body.of === "dream" && dice.keep({ law: body.law, seed: body.seed }, following.canvas)) walk.fill();
  });

  // --- what is asked
  function sources() {
    if (mode === "triangle") return corners().map((word, i) => ({ word, share: shares[i] / 100 }));
    return mix.sources().filter((one) => one.word);
  }
  function sketch() {
    if (mode === "dice")
      return [{ of: "dream", law: dice.law, seed: dice.seed }, `Throw ${dice.seed} of the ${dice.law} law`];
    if (mode === "walk") {
      const [a, b] = walk.ends();
      if (!a || !b) return null;
      const { share } = walk;
      return [
        { of: "walk", first: a.ref, second: b.ref, share, seed: seed.value },
        `${percent(1 - share)} of ${a.text}, ${percent(share)} of ${b.text}`,
      ];
    }
    const parts = sources().filter((one) => one.share > 0);
    if (!parts.length || how.value !== quick || pictures.length) return null;
    return [{ of: "mixture", sources: parts, seed: seed.value }, spoken(parts)];
  }
  function moved() {
    if (!following) return;
    const wanted = sketch();
    walk.paint();
    caption.textContent = wanted
      ? wanted[1]
      : mode === "walk"
        ? "Choose two finds to walk between."
        : "This method draws in the queue: press Draw.";
    following.el.classList.toggle("off", !wanted);
    if (wanted && can() && !room.hidden && begun) following.follow(...wanted);
    remember();
  }
  function remember() {
    if (here().room !== "fuse") return;
    const params = { mode };
    if (mode === "mix")
      params.mix = mix
        .values()
        .map((one) => `${one.word}:${one.share}`)
        .join(",");
    if (mode === "triangle")
      params.mix = corners()
        .map((word, i) => `${word}:${shares[i]}`)
        .join(",");
    if (mode === "dice") Object.assign(params, { law: dice.law, seed: dice.seed });
    else params.seed = seed.value;
    note("fuse", here().id, params);
  }

  // --- buttons
  const title = h("input", { placeholder: "moss owl", maxlength: 120, id: "find-name" });
  const keep = h("button", { type: "submit" }, "Keep");
  const draw = h("button", { type: "button", class: "primary" }, "Draw");
  const path = h("button", { type: "button" }, "Draw the path");
  const whole = h("button", { type: "button" }, "Draw the triangle");
  const keeping = h(
    "form",
    { class: "keep" },
    h("label", { for: title.id }, "Keep as a named concept"),
    h("div", { class: "joined" }, title, keep),
  );
  const common = () => {
    const body = { seed: mode === "dice" ? dice.seed : seed.value };
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
    if (mode === "dice") return { verb: "dream", num: 16, law: dice.law, ...common() };
    if (mode === "walk")
      return { verb: "walk", first: walk.ends()[0]?.ref, second: walk.ends()[1]?.ref, num: 9, seed: seed.value };
    return { ...mixed(), num_images: Number(num.value) };
  }
  draw.addEventListener("click", () =>
    busy(draw, trouble, () => {
      if (mode === "walk" && walk.ends().some((one) => one?.ref.of))
        throw new Error(
          "A throw of the dice is kept nowhere yet. Keep it as a named concept first, then walk from it.",
        );
      return begin(job());
    }),
  );
  path.addEventListener("click", () =>
    busy(path, trouble, () =>
      begin({
        verb: "fuse",
        layout: "sweep",
        ...common(),
        sources: mix.sources().map(({ word }) => ({ word })),
        num: 9,
        num_images: 1,
      }),
    ),
  );
  whole.addEventListener("click", () =>
    busy(whole, trouble, () =>
      begin({
        verb: "fuse",
        layout: "grid",
        ...common(),
        num_images: 1,
        sources: (mode === "triangle" ? corners() : mix.sources().map((one) => one.word)).map((word) => ({ word })),
      }),
    ),
  );
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

  const mixPanel = h(
    "section",
    { class: "stack", "aria-label": "Mix" },
    mix.el,
    h("div", { class: "stack", hidden: true }, chips, drop),
  );
  const pictureHolder = mixPanel.lastElementChild;
  const trianglePanel = h(
    "section",
    { class: "stack", "aria-label": "Triangle" },
    h("div", { class: "row three" }, three),
    pad.el,
  );
  const methodPanel = h(
    "details",
    {},
    h("summary", {}, "More"),
    h("div", { class: "stack" }, field("Method", how), about, settings.el, seed.el, field("Pictures", num)),
  );
  const panels = { mix: mixPanel, triangle: trianglePanel, dice: dice.el, walk: walk.el };
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
    if (mode === "walk") walk.load().catch((error) => problem(trouble, error));
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

  const stage = h(
    "div",
    { class: "stage" },
    h(
      "section",
      { class: "follow", "aria-label": "The picture that follows" },
      following.el,
      h(
        "div",
        { class: "follow-side" },
        caption,
        h("div", { class: "row wrap" }, draw, path, whole),
        keeping,
        trouble,
        h(
          "p",
          { class: "hint" },
          "The large picture is a quick sketch. Draw makes pictures with all steps, and keeps them on the shelf.",
        ),
      ),
    ),
    view.el,
  );
  const room = h(
    "div",
    { class: "room two fuse" },
    h("h1", { class: "unseen" }, "Fuse"),
    h(
      "form",
      { class: "controls", "aria-label": "What to fuse", onsubmit: (event) => event.preventDefault() },
      tabs,
      Object.values(panels),
      methodPanel,
    ),
    stage,
  );

  let begun = false;
  function start(params) {
    const known = words();
    const usual = ["pig", "owl", "bee"].map((word, i) => (known.includes(word) ? word : (known[i] ?? "")));
    const given = (params.get("mix") ?? "")
      .split(",")
      .filter(Boolean)
      .map((one) => {
        const cut = one.lastIndexOf(":");
        return { word: one.slice(0, cut), share: Math.max(0, Number(one.slice(cut + 1)) || 0) };
      });
    const asked = params.get("mode") ?? "mix";
    mix.set(
      asked === "mix" && given.length >= 2
        ? given
        : [
            { word: usual[0], share: 55 },
            { word: usual[1], share: 45 },
          ],
    );
    if (asked === "triangle" && given.length === 3) {
      three.forEach((input, i) => {
        input.value = given[i].word;
      });
      const first = Math.min(Math.round(given[0].share), 100);
      const second = Math.min(Math.round(given[1].share), 100 - first);
      shares = [first, second, 100 - first - second];
    } else
      three.forEach((input, i) => {
        input.value = usual[i];
      });
    pad.set(corners(), shares);
    const first = Number(params.get("seed") ?? 0) || 0;
    dice.set(params.get("law"), first);
    seed.value = first;
    how.dispatchEvent(new Event("change"));
    begun = true;
    setMode(asked);
  }

  receive("fuse", ({ request, walk: find }) => {
    if (find) {
      setMode("walk");
      say(`${walk.take(find)}: ${find.text}`);
      moved();
    }
    if (!request) return;
    seed.value = request.seed ?? 0;
    if (request.verb === "dream") {
      dice.set(request.law ?? "gaussian", request.seed ?? 0);
      setMode("dice");
    } else if (request.verb === "walk") setMode("walk");
    else {
      if (request.method) {
        how.value = request.method;
        how.dispatchEvent(new Event("change"));
      }
      pictures.splice(
        0,
        pictures.length,
        ...request.sources
          .filter((one) => one.picture)
          .map(({ picture }) => ({ ref: picture, name: "as before", url: api.pictureUrl(picture) })),
      );
      drawChips();
      const named = request.sources.filter((one) => one.word);
      settings.write(request.config);
      if (request.layout === "grid") {
        three.forEach((input, i) => {
          input.value = named[i]?.word ?? "";
        });
        pad.set(corners(), shares);
        setMode("triangle");
      } else {
        mix.set(named.map((one) => ({ word: one.word, share: one.share ?? 1 })));
        setMode("mix");
      }
    }
  });
  live.on("finished", () => {
    if (mode === "walk" && !room.hidden) walk.load().catch(() => {});
  });

  return {
    el: room,
    title: "Fuse",
    show({ id, params }) {
      if (!begun) start(params);
      else if (params.get("mode") && params.get("mode") !== mode) setMode(params.get("mode"));
      view.show(id || null);
      moved();
    },
    hide: () => following.stop(),
  };
}
