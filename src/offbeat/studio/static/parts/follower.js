// A picture that follows a slider: one request on its way, and only the newest wish behind it.

import * as api from "../lib/api.js";
import { h, problem } from "../lib/dom.js";

// the server has four lanes for a session: tabs that share one by chance only ask again
const LANE = "abcd"[Math.floor(Math.random() * 4)];

/** `follow(body, words)` draws soon; `words` say to a screen reader what is seen. */
export function follower({ side = 64 } = {}) {
  const canvas = h("canvas", { width: side, height: side, role: "img", "aria-label": "No picture yet" });
  const trouble = h("div", {});
  const el = h("div", { class: "follower" }, h("div", { class: "follower-frame" }, canvas), trouble);
  let running = null;
  let wish = null;
  let last = null;

  async function work() {
    while (wish) {
      const { body, words, again = 0 } = wish;
      wish = null;
      running = new AbortController();
      el.classList.add("waiting");
      try {
        const blob = await api.sketch(body, LANE, running.signal);
        const bitmap = await createImageBitmap(blob);
        canvas.width = bitmap.width;
        canvas.height = bitmap.height;
        canvas.getContext("2d").drawImage(bitmap, 0, 0);
        canvas.classList.toggle("tiny", bitmap.width <= 96);
        canvas.setAttribute("aria-label", words);
        last = { body, words, blob };
        problem(trouble, null);
        el.dispatchEvent(new CustomEvent("drawn", { detail: last }));
      } catch (error) {
        // outdated by another tab, and still the newest wish here: once more
        if (error.kind === "outdated" && again < 3) wish ??= { body, words, again: again + 1 };
        else if (error.name !== "AbortError") problem(trouble, error);
      }
    }
    running = null;
    el.classList.remove("waiting");
  }

  function follow(body, words) {
    wish = { body, words };
    if (!running) work();
  }
  function stop() {
    wish = null;
    running?.abort();
  }
  return {
    el,
    canvas,
    follow,
    stop,
    get last() {
      return last;
    },
  };
}
