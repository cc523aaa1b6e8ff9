// What can be done with a run or a picture, wherever it is seen.

import * as api from "../lib/api.js";
import { busy, dialog, field, h, options, toast } from "../lib/dom.js";
import { backbone, go, hand, roomOf, state } from "../lib/state.js";
import * as live from "../lib/live.js";
import { keyOf } from "./pictures.js";
import { unlike } from "./steer.js";

/** How the API names a picture, and the concept that drew it. */
export const pictureRef = (run, picture) => {
  const ref = { run: run.id, kind: picture.kind, index: picture.index };
  return picture.kind === "previews" ? { ...ref, step: picture.step, trial: picture.trial ?? 0 } : ref;
};
export function conceptRef(run, picture) {
  const ref = { run: run.id };
  if (picture?.kind === "previews" && picture.step) Object.assign(ref, { step: picture.step, trial: picture.trial ?? 0 });
  else if (run.num_concepts > 1) ref.index = picture?.concept ?? picture?.index ?? 0;
  return ref;
}

/** Post a job and go to where it is seen. */
export async function begin(request, stay = false) {
  const entry = await api.post(request);
  live.keep(entry);
  if (!stay) go(roomOf(request.verb), entry.id);
  return entry;
}

const button = (text, onclick, kind = "") => h("button", { type: "button", class: kind, onclick }, text);

/** A small form in a dialog; `work(values)` may throw what is to be shown. */
function ask(title, inputs, verb, work, ...more) {
  const trouble = h("div", {});
  const submit = h("button", { class: "primary" }, verb);
  const form = h("form", { class: "stack" }, ...inputs, ...more, trouble, h("div", { class: "row" }, submit));
  const box = dialog(title, form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(submit, trouble, async () => {
      await work();
      box.close();
    });
  });
  inputs[0]?.querySelector("input, select, textarea")?.focus();
  return box;
}

export function renderDialog(run, picture) {
  const prompt = h("input", { value: "a picture of a {concept}", required: true, maxlength: 1000 });
  const num = h("input", { type: "number", min: 1, max: state.about.limits.images, value: 8 });
  ask(
    "Draw it in another prompt",
    [field("Prompt", prompt, "{concept} stands for what was found."), field("Pictures", num)],
    "Draw",
    () =>
      begin({
        verb: "render",
        sources: [conceptRef(run, picture)],
        prompt: prompt.value,
        num_images: Number(num.value),
      }),
  );
}

export function keepDialog(run, picture) {
  const title = h("input", { required: true, maxlength: 120, placeholder: "moss owl" });
  ask("Keep as a named concept", [field("Name", title)], "Keep", async () => {
    await begin({ verb: "render", sources: [conceptRef(run, picture)], num_images: 1, title: title.value }, true);
    toast(`“${title.value}” goes to the shelf.`, "Shelf", () => go("shelf"));
  });
}

const WHERE = {
  diffusers: "pipe.load_textual_inversion(file), or load_lora_weights where there is a LoRA.",
  a1111: "AUTOMATIC1111 and Forge: put it into embeddings/ and write its file name in a prompt.",
  comfyui: "ComfyUI: put it into models/embeddings/ and write embedding:name in a prompt.",
  sdxl: "One file with both text encoders' tokens, for SDXL.",
  kohya: "A LoRA as kohya's scripts, AUTOMATIC1111 and ComfyUI read it.",
};

export function exportDialog(run, index = 0) {
  const hint = h("p", { class: "hint" });
  const format = h("select", {}, options(state.about.formats));
  const show = () => {
    hint.textContent = WHERE[format.value] ?? "";
  };
  format.addEventListener("change", show);
  show();
  const token = h("input", { value: "", placeholder: "<owl>", maxlength: 60 });
  const at = h("input", { type: "number", min: 0, max: Math.max(0, run.num_concepts - 1), value: index });
  ask(
    "Export",
    [
      field("For", format),
      hint,
      field("Token", token, "The word that it answers to; left empty, the one that it has."),
      run.num_concepts > 1 ? field("Which concept", at, `0 to ${run.num_concepts - 1}`) : null,
    ].filter(Boolean),
    "Download",
    async () => {
      const file = await api.exported(run.id, {
        format: format.value,
        token: token.value,
        index: run.num_concepts > 1 ? at.value : "",
      });
      const url = URL.createObjectURL(file.blob);
      h("a", { href: url, download: file.name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    },
  );
}

export async function trash(run) {
  await api.remove(run.id);
  toast(`“${run.title}” is in the trash.`, "Undo", async () => {
    await api.restore(run.id).catch((error) => toast(error.message));
  });
}

const can = (verb) => state.about.methods.some((one) => one.verbs.includes(verb));

/** Two buttons that say what one thinks of a picture; a second press takes it back. */
function opinion(run, picture) {
  const press = (mark, text) => {
    const one = button(text, () =>
      busy(one, trouble, async () => {
        picture.mark = picture.mark === mark ? 0 : mark;
        await api.mark(run.id, { index: picture.index, mark: picture.mark });
        paint();
      }),
    );
    return { one, mark };
  };
  const both = [press(1, "★ Like"), press(-1, "Dislike")];
  const paint = () => both.forEach(({ one, mark }) => one.setAttribute("aria-pressed", String(picture.mark === mark)));
  const trouble = h("div", {});
  paint();
  return [...both.map(({ one }) => one), trouble];
}

/** Draw pictures that share what a picture shows, from other noise. */
export function variations(run, picture) {
  const about = backbone(run.backbone);
  const subject = run.subject || run.title;
  return begin({
    verb: "generate",
    prompt: (about.prompt_template ?? "{subject}").replace("{subject}", subject),
    image: pictureRef(run, picture),
    image_weight: 0.8,
    num_images: 8,
    backbone: about.name,
    title: `variations of ${run.title} ${picture.index + 1}`.slice(0, 120),
  });
}

/** Buttons for one picture; `done` closes what they stand in. */
export function pictureActions(run, picture, done, { picked, repick }) {
  const away = (work) => () => {
    done();
    work();
  };
  const whole = run.ended !== null && run.ended !== undefined && picture.kind !== "ordinary";
  const concept = whole && run.num_concepts > 0;
  const name = `${run.title} ${picture.index + 1}`;
  return h(
    "div",
    { class: "row wrap" },
    ...(whole && picture.kind === "images" ? opinion(run, picture) : []),
    button(
      picked.has(keyOf(picture)) ? "No longer picked" : "Pick",
      away(() => repick(picture)),
    ),
    button(
      "Less of this",
      away(() => {
        unlike([{ ref: pictureRef(run, picture), text: name, url: picture.url }]);
        go("explore");
      }),
    ),
    picture.kind === "images"
      ? button(
          "Variations",
          away(() => variations(run, picture).catch((error) => toast(error.message))),
        )
      : null,
    concept
      ? button(
          "Keep as a concept",
          away(() => keepDialog(run, picture)),
        )
      : null,
    concept
      ? button(
          "Another prompt",
          away(() => renderDialog(run, picture)),
        )
      : null,
    concept
      ? button(
          "Walk from here",
          away(() => {
            go("fuse");
            hand("fuse", { walk: { ref: conceptRef(run, picture), text: name, url: picture.url } });
          }),
        )
      : null,
    can("paint")
      ? button(
          "As artwork",
          away(() => {
            go("paint");
            hand("paint", { art: { ref: pictureRef(run, picture), url: picture.url, name } });
          }),
        )
      : null,
    can("paint")
      ? button(
          "As content",
          away(() => {
            go("paint");
            hand("paint", { content: { ref: pictureRef(run, picture), url: picture.url, name } });
          }),
        )
      : null,
    h("a", { class: "button", href: picture.url, download: `${run.title}-${picture.index}.png` }, "Download"),
  );
}

/** Buttons for a whole run. */
export function runActions(run, { change, stay }) {
  const concept = run.num_concepts > 0;
  const room = roomOf(run.verb);
  return h(
    "div",
    { class: "row wrap run-actions" },
    h(
      "button",
      { type: "button", "aria-pressed": String(run.favourite), onclick: () => change({ favourite: !run.favourite }) },
      run.favourite ? "★ Favourite" : "☆ Favourite",
    ),
    concept ? button("Another prompt", () => renderDialog(run)) : null,
    concept ? button("Export", () => exportDialog(run)) : null,
    run.request?.verb
      ? button("Use its settings", () => {
          go(room === "shelf" ? "explore" : room);
          hand(room, { request: run.request });
        })
      : null,
    h("a", { class: "button", href: `${api.BASE}/runs/${run.id}/zip`, download: "" }, "Download all"),
    stay ? h("a", { class: "button", href: `#/shelf/${run.id}` }, "On the shelf") : null,
    !stay && room !== "shelf"
      ? h("a", { class: "button", href: `#/${room}/${run.id}` }, `Open in ${room[0].toUpperCase()}${room.slice(1)}`)
      : null,
    run.own
      ? h(
          "button",
          { type: "button", "aria-pressed": String(run.shared), onclick: () => change({ shared: !run.shared }) },
          run.shared ? "Shared" : "Share",
        )
      : null,
    run.own
      ? button("Delete", async () => {
          try {
            await trash(run);
            go("shelf");
          } catch (error) {
            toast(error.message);
          }
        })
      : null,
  );
}
