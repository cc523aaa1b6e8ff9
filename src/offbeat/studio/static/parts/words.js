// A field for a word, with what the checkpoint knows as suggestions.

import { h, uid } from "../lib/dom.js";

const lists = new Map();

/** The id of a list of suggestions; lists of the same words are shared. */
function suggestions(words) {
  const key = words.join("\n");
  if (!lists.has(key)) {
    const id = uid("words");
    document.body.append(
      h(
        "datalist",
        { id },
        words.map((word) => h("option", { value: word })),
      ),
    );
    lists.set(key, id);
  }
  return lists.get(key);
}

export function wordInput(words, props = {}) {
  const input = h("input", {
    type: "text",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    maxlength: 200,
    ...props,
  });
  input.suggest = (list) => input.setAttribute("list", suggestions(list ?? []));
  input.suggest(words);
  return input;
}

/** A seed that one can throw anew. */
export function seedField(onchange) {
  const input = h("input", { type: "number", min: 0, max: 4294967295, step: 1, value: 0, id: uid("seed") });
  const dice = h(
    "button",
    { type: "button", class: "quiet", title: "Another seed", "aria-label": "Another seed" },
    "⚄",
  );
  dice.addEventListener("click", () => {
    input.value = String(Math.floor(Math.random() * 10000));
    onchange?.();
  });
  input.addEventListener("input", () => onchange?.());
  const el = h(
    "div",
    { class: "field" },
    h("label", { for: input.id }, "Seed"),
    h("div", { class: "joined" }, input, dice),
  );
  return {
    el,
    input,
    get value() {
      return Number(input.value) || 0;
    },
    set value(to) {
      input.value = String(to);
    },
  };
}
