// Shelf: everything that was made; to be found again, compared, traced back, taken elsewhere.

import * as api from "../lib/api.js";
import { busy, dialog, fill, h, options, problem, toast } from "../lib/dom.js";
import { VERBS, when } from "../lib/format.js";
import * as live from "../lib/live.js";
import { address, here, note } from "../lib/state.js";
import { aboutRun } from "../parts/about_run.js";
import { trash } from "../parts/actions.js";
import { importDrop, recallDrop } from "../parts/bring.js";
import { compare } from "../parts/compare.js";
import { image } from "../parts/pictures.js";
import { runView } from "../parts/runview.js";

const PAGE = 48;

export function shelf() {
  const view = runView({ inShelf: true });
  const trouble = h("div", {});
  const q = h("input", { type: "search", placeholder: "Search", "aria-label": "Search the shelf" });
  const verb = h("select", { "aria-label": "Kind" }, options([["", "everything"], ...Object.entries(VERBS)]));
  const sort = h(
    "select",
    { "aria-label": "Order" },
    options([
      ["-created", "newest first"],
      ["created", "oldest first"],
      ["title", "by title"],
    ]),
  );
  const which = h(
    "select",
    { "aria-label": "Which" },
    options([
      ["", "mine and shared"],
      ["favourite", "favourites"],
      ["mine", "only mine"],
      ["shared", "shared by others"],
      ["deleted", "trash"],
    ]),
  );
  const count = h("p", { class: "hint", "aria-live": "polite" });
  const list = h("ul", { class: "cards", "aria-label": "Runs" });
  const nothing = h("p", { class: "lead" });
  const why = h("p", {});
  const none = h("div", { class: "empty-stage" }, nothing, why);
  const more = h("button", { type: "button" }, "More");
  const chosen = new Map();
  const comparebar = h("div", { class: "pickbar", hidden: true, role: "group", "aria-label": "What is chosen" });
  let runs = [];
  let total = 0;
  let asking = null;

  const filters = () => ({
    q: q.value.trim(),
    verb: verb.value,
    sort: sort.value === "-created" ? "" : sort.value,
    favourite: which.value === "favourite" ? "true" : "",
    shared: which.value === "shared" ? "true" : which.value === "mine" ? "false" : "",
    deleted: which.value === "deleted" ? "true" : "",
  });

  async function load(onward = false) {
    asking?.abort();
    asking = new AbortController();
    try {
      const answer = await api.runs(
        {
          ...filters(),
          limit: onward ? PAGE : Math.min(200, Math.max(PAGE, runs.length)),
          offset: onward ? runs.length : "",
        },
        asking.signal,
      );
      runs = onward ? [...runs, ...answer.runs] : answer.runs;
      total = answer.total;
      problem(trouble, null);
      draw();
    } catch (error) {
      problem(trouble, error);
    }
  }

  const cards = new Map();
  function draw() {
    const ids = new Set(runs.map((one) => one.id));
    const at = [...list.children].findIndex((one) => one.contains(document.activeElement));
    for (const [id, one] of cards)
      if (!ids.has(id)) {
        one.remove();
        cards.delete(id);
        chosen.delete(id);
      }
    runs.forEach((run, i) => {
      const fresh = card(run);
      const old = cards.get(run.id);
      const focus = old?.contains(document.activeElement) ? document.activeElement.dataset.part : null;
      if (old) old.replaceWith(fresh);
      else list.insertBefore(fresh, list.children[i] ?? null);
      if (list.children[i] !== fresh) list.insertBefore(fresh, list.children[i] ?? null);
      cards.set(run.id, fresh);
      if (focus) fresh.querySelector(`[data-part=${focus}]`)?.focus();
    });
    // the card that had the focus is gone: its place takes it
    if (at >= 0 && !list.contains(document.activeElement))
      (list.children[Math.min(at, list.children.length - 1)]?.querySelector("a") ?? q).focus();
    empty.hidden = which.value !== "deleted" || !runs.length;
    count.textContent = total === 1 ? "1 run" : `${total} runs`;
    none.hidden = runs.length > 0;
    const isNarrowed = q.value.trim() || verb.value || which.value;
    nothing.textContent = isNarrowed ? "Nothing fits." : "Nothing here yet.";
    why.textContent = isNarrowed
      ? "Change the search or the choices above."
      : "What is drawn in the other rooms comes here by itself.";
    more.hidden = runs.length >= total;
    choose();
  }

  function card(run) {
    const act = (text, label, work, part, pressed) => {
      const button = h(
        "button",
        {
          type: "button",
          class: "quiet small",
          "aria-label": `${label} ${run.title}`,
          title: label,
          "data-part": part,
          "aria-pressed": pressed === undefined ? null : String(pressed),
        },
        text,
      );
      button.addEventListener("click", () => busy(button, trouble, work));
      return button;
    };
    const box = h("input", {
      type: "checkbox",
      "aria-label": `Choose ${run.title}`,
      checked: chosen.has(run.id),
      "data-part": "box",
    });
    box.addEventListener("change", () => {
      if (box.checked) chosen.set(run.id, run);
      else chosen.delete(run.id);
      choose();
    });
    const gone = run.deleted;
    return h(
      "li",
      { class: "card" },
      h(
        "a",
        { href: address("shelf", run.id), class: "card-link", "data-part": "link" },
        h("span", { class: "frame" }, run.cover ? image(run.cover, "") : h("span", { class: "hint" }, "no picture")),
        h("span", { class: "card-title" }, run.title || VERBS[run.verb]),
      ),
      h(
        "p",
        { class: "hint" },
        [VERBS[run.verb], when(run.created), run.brought ? "of the command line" : run.shared ? (run.own ? "shared" : "of someone else") : ""]
          .filter(Boolean)
          .join(" · "),
      ),
      h(
        "div",
        { class: "card-tools" },
        h("label", { class: "check" }, box, h("span", {}, "choose")),
        gone
          ? act(
              "Restore",
              "Restore",
              async () => {
                await api.restore(run.id);
                await load();
              },
              "restore",
            )
          : null,
        !gone && run.own
          ? act(
              run.favourite ? "★" : "☆",
              "Favourite",
              async () => {
                await api.change(run.id, { favourite: !run.favourite });
                await load();
              },
              "star",
              run.favourite,
            )
          : null,
        !gone && run.own
          ? act(
              "Delete",
              "Delete",
              async () => {
                await trash(run);
                await load();
              },
              "delete",
            )
          : null,
      ),
    );
  }

  function choose() {
    comparebar.hidden = chosen.size === 0;
    fill(
      comparebar,
      h("p", {}, `${chosen.size} chosen`),
      h(
        "button",
        { type: "button", disabled: chosen.size < 2, onclick: () => compare([...chosen.keys()]) },
        "Compare side by side",
      ),
      several(),
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          onclick: () => {
            chosen.clear();
            draw();
          },
        },
        "Clear",
      ),
    );
  }

  /** Throw away, or take out of the trash, all that is chosen and one's own. */
  function several() {
    const gone = which.value === "deleted";
    const own = runs.filter((one) => chosen.has(one.id) && one.own);
    if (!own.length) return null;
    const each = (work) => Promise.all(own.map((one) => work(one.id)));
    const button = h("button", { type: "button" }, `${gone ? "Restore" : "Delete"} ${own.length}`);
    button.addEventListener("click", () =>
      busy(button, trouble, async () => {
        await each(gone ? api.restore : api.remove);
        chosen.clear();
        if (!gone)
          toast(`${own.length} runs are in the trash.`, "Undo", async () => {
            await each(api.restore).catch((error) => toast(error.message));
            load();
          });
        await load();
      }),
    );
    return button;
  }

  const empty = h("button", { type: "button", hidden: true }, "Empty the trash");
  empty.addEventListener("click", () => {
    const sure = h("button", { type: "button", class: "primary" }, "Delete for good");
    const box = dialog(
      "Empty the trash?",
      h("p", {}, "All runs that lie in it are deleted with their pictures. This cannot be undone."),
      h("div", { class: "row" }, sure, h("button", { type: "button", onclick: () => box.close() }, "Keep them")),
    );
    sure.addEventListener("click", () =>
      busy(sure, trouble, async () => {
        await api.emptyTrash();
        box.close();
        await load();
      }),
    );
  });

  // --- one run, opened
  const back = h("a", { class: "button quiet", href: "#/shelf" }, "← Shelf");
  const detail = aboutRun();

  const shelfPage = h(
    "div",
    { class: "stack" },
    h("h1", {}, "Shelf"),
    h(
      "form",
      {
        class: "filters",
        role: "search",
        "aria-label": "Find on the shelf",
        onsubmit: (event) => event.preventDefault(),
      },
      q,
      verb,
      which,
      sort,
    ),
    trouble,
    count,
    list,
    none,
    h("div", { class: "row" }, more, empty),
    comparebar,
    h("div", { class: "row drops" }, recallDrop(), importDrop()),
  );
  const runPage = h(
    "div",
    { class: "stack", hidden: true },
    h("h1", { class: "unseen" }, "A run of the shelf"),
    h("p", {}, back),
    view.el,
    detail.el,
  );
  const el = h("div", { class: "room one" }, shelfPage, runPage);

  let typing = 0;
  const filter = () => {
    note("shelf", "", {
      q: q.value.trim(),
      verb: verb.value,
      which: which.value,
      sort: sort.value === "-created" ? "" : sort.value,
    });
    runs = [];
    load();
  };
  q.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(filter, 200);
  });
  for (const select of [verb, which, sort]) select.addEventListener("change", filter);
  more.addEventListener("click", () => load(true));
  let soon = 0;
  const again = () => {
    if (el.hidden) return;
    clearTimeout(soon);
    soon = setTimeout(() => {
      if (here().id) detail.show(here().id);
      else load();
    }, 150);
  };
  for (const name of ["finished", "changed", "reset"]) live.on(name, again);

  return {
    el,
    title: "Shelf",
    show({ id, params }) {
      shelfPage.hidden = Boolean(id);
      runPage.hidden = !id;
      view.show(id || null);
      detail.show(id || null);
      if (id) return undefined;
      q.value = params.get("q") ?? q.value;
      for (const [select, name] of [
        [verb, "verb"],
        [which, "which"],
        [sort, "sort"],
      ])
        if (params.has(name)) select.value = params.get(name);
      return load();
    },
  };
}
