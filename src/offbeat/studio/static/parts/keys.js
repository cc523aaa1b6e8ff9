// The sheet of keys: "?" opens it wherever nobody is typing.

import { dialog, h } from "../lib/dom.js";

const KEYS = [
  ["Anywhere", [["?", "This sheet"], ["Ctrl Z", "Undo what was just deleted"], ["Esc", "Close what is open"]]],
  ["Pictures", [["Arrow keys", "Move"], ["Enter", "Open large"], ["Space", "Pick, or no longer"], ["Home, End", "First, last"]]],
  ["A large picture", [["← →", "The one before, the next"]]],
  ["The map", [["Enter", "Mark a box"], ["Arrow keys", "Move it"], ["Shift + arrows", "Change its size"], ["Esc", "Remove it"]]],
  ["Sliders", [["Arrow keys", "A little"], ["Page Up, Page Down", "A lot"]]],
];

export function listenForKeys() {
  addEventListener("keydown", (event) => {
    if (event.key !== "?" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.("input, textarea, select, dialog")) return;
    event.preventDefault();
    dialog(
      "Keys",
      ...KEYS.map(([where, keys]) =>
        h(
          "section",
          { class: "stack" },
          h("h3", {}, where),
          h(
            "dl",
            { class: "facts" },
            keys.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]),
          ),
        ),
      ),
    );
  });
}
