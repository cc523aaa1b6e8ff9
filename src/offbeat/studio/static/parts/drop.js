// A place to drop files on; a button for everybody else.

import * as api from "../lib/api.js";
import { h, problem, say } from "../lib/dom.js";
import { size } from "../lib/format.js";
import { state } from "../lib/state.js";

/**
 * `take(files)` gets what was dropped or chosen. Its errors are shown right below.
 */
export function dropzone({
  label,
  hint,
  accept = "image/png,image/jpeg,image/webp,image/gif",
  multiple = false,
  take,
}) {
  const input = h("input", { type: "file", accept, multiple, class: "unseen", tabindex: "-1", "aria-hidden": "true" });
  const button = h(
    "button",
    { type: "button", class: "drop-button", onclick: () => input.click() },
    h("strong", {}, label),
    hint ? h("span", { class: "hint" }, hint) : null,
  );
  const trouble = h("div", {});
  const el = h("div", { class: "drop" }, button, input, trouble);
  async function give(files) {
    if (!files.length) return;
    problem(trouble, null);
    el.setAttribute("aria-busy", "true");
    try {
      for (const file of files) {
        const most = state.about.limits.upload_bytes;
        if (file.size > most)
          throw new Error(
            `${file.name} has ${size(file.size)}; expected at most ${size(most)}. Make it smaller first.`,
          );
      }
      await take(multiple ? [...files] : [files[0]]);
    } catch (error) {
      problem(trouble, error);
    } finally {
      el.removeAttribute("aria-busy");
    }
  }
  input.addEventListener("change", async () => {
    await give(input.files);
    input.value = "";
  });
  el.addEventListener("dragover", (event) => {
    event.preventDefault();
    el.classList.add("over");
  });
  el.addEventListener("dragleave", () => el.classList.remove("over"));
  el.addEventListener("drop", (event) => {
    event.preventDefault();
    el.classList.remove("over");
    give(event.dataTransfer.files);
  });
  return el;
}

/** One slot for a picture: dropped, chosen, or handed over from a run. `slot.ref` is what the API takes. */
export function pictureSlot({ label, hint, onchange }) {
  const holder = h("div", { class: "slot-picture", hidden: true });
  const slot = { ref: null, url: null };
  const zone = dropzone({
    label,
    hint,
    take: async ([file]) => {
      const made = await api.upload(file);
      slot.set({ upload: made.id }, made.url, made.name);
    },
  });
  slot.set = (ref, url, name) => {
    Object.assign(slot, { ref, url, name });
    zone.hidden = Boolean(ref);
    holder.hidden = !ref;
    holder.replaceChildren();
    if (ref) {
      const clear = h("button", { type: "button", class: "quiet small" }, `Remove ${label.toLowerCase()}`);
      clear.addEventListener("click", () => {
        slot.set(null);
        zone.querySelector("button").focus();
      });
      holder.append(
        h("img", { src: url, alt: `${label}: ${name}`, class: "slot-img" }),
        h("p", {}, h("strong", {}, label), h("span", { class: "hint" }, name)),
        clear,
      );
      say(`${label}: ${name}`);
    }
    onchange?.();
  };
  slot.el = h("div", { class: "slot" }, zone, holder);
  return slot;
}
