// What is brought to the shelf from elsewhere: a picture to be recalled, a concept to be kept.

import * as api from "../lib/api.js";
import { busy, dialog, field, h } from "../lib/dom.js";
import { go, hand, roomOf } from "../lib/state.js";
import { begin } from "./actions.js";
import { dropzone } from "./drop.js";

/** Drop a picture to learn how it was made. */
export const recallDrop = () =>
  dropzone({
    label: "How was this made?",
    hint: "Drop a picture that Offbeat, or another tool, has drawn.",
    take: async ([file]) => {
      const found = await api.recall(file);
      const wrong = h("div", {});
      const rows = [
        ["Drawn by", found.by === "offbeat" ? "Offbeat" : found.by ? "another tool" : "not known"],
        ["Prompt", found.prompt],
        ["Seed", found.seed],
        ["Why not", found.reason],
      ].filter(([, value]) => value !== null && value !== undefined && value !== "");
      const again = h("button", { type: "button", class: "primary" }, "Draw it again");
      const fill = h("button", { type: "button" }, "Open with these settings");
      const box = dialog(
        "How this picture was made",
        h(
          "div",
          { class: "stack" },
          h(
            "dl",
            { class: "facts" },
            rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]),
          ),
          found.text
            ? h("pre", { tabindex: 0, role: "region", "aria-label": "What is written in the picture" }, found.text)
            : null,
          found.request
            ? h("div", { class: "row wrap" }, again, roomOf(found.request.verb) === "shelf" ? null : fill)
            : null,
          wrong,
        ),
      );
      again.addEventListener("click", () =>
        busy(again, wrong, async () => {
          await begin(found.request);
          box.close();
        }),
      );
      fill.addEventListener("click", () => {
        box.close();
        const room = roomOf(found.request.verb);
        go(room);
        hand(room, { request: found.request });
      });
    },
  });

/** Drop a file that another tool made, to keep what it holds as a concept. */
export const importDrop = () =>
  dropzone({
    label: "Bring a token or a LoRA",
    hint: "A .safetensors file becomes a concept here.",
    accept: ".safetensors",
    take: async ([file]) => {
      const made = await api.upload(file);
      const word = h("input", { placeholder: "handbag", maxlength: 200 });
      const wrong = h("div", {});
      const submit = h("button", { class: "primary" }, "Keep it");
      const form = h(
        "form",
        { class: "stack" },
        h("p", {}, made.name),
        field("Of which word", word, "What it is a kind of, if anything."),
        submit,
        wrong,
      );
      const box = dialog("Bring a concept", form);
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        busy(submit, wrong, async () => {
          await begin({ verb: "import", upload: made.id, ...(word.value.trim() ? { word: word.value.trim() } : {}) });
          box.close();
        });
      });
    },
  });
