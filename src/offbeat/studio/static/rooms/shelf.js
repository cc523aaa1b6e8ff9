// Shelf: everything that was made; to be found again, compared, traced back, taken elsewhere.

import * as api from "../lib/api.js";
import { busy, dialog, field, fill, h, options, problem, toast } from "../lib/dom.js";
import { size, VERBS, when } from "../lib/format.js";
import * as live from "../lib/live.js";
import { address, go, hand, here, note, roomOf, state } from "../lib/state.js";
import { begin, trash } from "../parts/actions.js";
import { dropzone } from "../parts/drop.js";
import { image } from "../parts/pictures.js";
import { runView } from "../parts/runview.js";

const PAGE = 48;

export function shelf() {
  const view = runView({ inShelf: true });
  const trouble = h("div", {});
  const q = h("input", { type: "search", placeholder: "Search", "aria-label": "Search the shelf" });
  const verb = h("select", { "aria-label": "Kind" }, options([["", "everything"], ...Object.entries(VERBS)]));
  const sort = h("select", { "aria-label": "Order" }, options([["-created", "newest first"], ["created", "oldest first"], ["title", "by title"]]));
  const which = h("select", { "aria-label": "Which" }, options([["", "mine and shared"], ["favourite", "favourites"], ["mine", "only mine"], ["shared", "shared by others"], ["deleted", "trash"]]));
  const count = h("p", { class: "hint", "aria-live": "polite" });
  const list = h("ul", { class: "cards", "aria-label": "Runs" });
  const none = h("div", { class: "empty-stage" }, h("p", { class: "lead" }, "Nothing here yet."), h("p", {}, "What is drawn in the other rooms comes here by itself."));
  const more = h("button", { type: "button" }, "More");
  const chosen = new Map();
  const comparebar = h("div", { class: "pickbar", hidden: true, role: "group", "aria-label": "What is chosen" });
  let runs = [];
  let total = 0;
  let asking = null;

  const filters = () => ({
    q: q.value.trim(), verb: verb.value, sort: sort.value === "-created" ? "" : sort.value, favourite: which.value === "favourite" ? "true" : "",
    shared: which.value === "shared" ? "true" : which.value === "mine" ? "false" : "", deleted: which.value === "deleted" ? "true" : "",
  });

  async function load(onward = false) {
    asking?.abort();
    asking = new AbortController();
    try {
      const answer = await api.runs({ ...filters(), limit: onward ? PAGE : Math.min(200, Math.max(PAGE, runs.length)), offset: onward ? runs.length : "" }, asking.signal);
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
    for (const [id, one] of cards) if (!ids.has(id)) { one.remove(); cards.delete(id); chosen.delete(id); }
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
    if (at >= 0 && !list.contains(document.activeElement)) (list.children[Math.min(at, list.children.length - 1)]?.querySelector("a") ?? q).focus();
    count.textContent = total === 1 ? "1 run" : `${total} runs`;
    none.hidden = runs.length > 0;
    more.hidden = runs.length >= total;
    choose();
  }

  function card(run) {
    const act = (text, label, work, part, pressed) => {
      const button = h("button", { type: "button", class: "quiet small", "aria-label": `${label} ${run.title}`, title: label, "data-part": part, "aria-pressed": pressed === undefined ? null : String(pressed) }, text);
      button.addEventListener("click", () => busy(button, trouble, work));
      return button;
    };
    const box = h("input", { type: "checkbox", "aria-label": `Choose ${run.title} to compare`, checked: chosen.has(run.id), "data-part": "box" });
    box.addEventListener("change", () => { if (box.checked) chosen.set(run.id, run); else chosen.delete(run.id); choose(); });
    const gone = run.deleted;
    return h("li", { class: "card" },
      h("a", { href: address("shelf", run.id), class: "card-link", "data-part": "link" },
        h("span", { class: "frame" }, run.cover ? image(run.cover, "") : h("span", { class: "hint" }, "no picture")),
        h("span", { class: "card-title" }, run.title || VERBS[run.verb])),
      h("p", { class: "hint" }, [VERBS[run.verb], when(run.created), run.shared ? (run.own ? "shared" : "of someone else") : ""].filter(Boolean).join(" · ")),
      h("div", { class: "card-tools" }, h("label", { class: "check" }, box, h("span", {}, "compare")),
        gone ? act("Restore", "Restore", async () => { await api.restore(run.id); await load(); }, "restore") : null,
        !gone && run.own ? act(run.favourite ? "★" : "☆", "Favourite", async () => { await api.change(run.id, { favourite: !run.favourite }); await load(); }, "star", run.favourite) : null,
        !gone && run.own ? act("Delete", "Delete", async () => { await trash(run); await load(); }, "delete") : null));
  }

  function choose() {
    comparebar.hidden = chosen.size === 0;
    fill(comparebar, h("p", {}, `${chosen.size} chosen`),
      h("button", { type: "button", disabled: chosen.size < 2, onclick: () => compare([...chosen.keys()]) }, "Compare side by side"),
      h("button", { type: "button", class: "quiet", onclick: () => { chosen.clear(); draw(); } }, "Clear"));
  }

  async function compare(ids) {
    const holder = h("div", { class: "compare" });
    const wrong = h("div", {});
    const box = dialog("Side by side", wrong, holder);
    box.classList.add("wide");
    try {
      const all = await Promise.all(ids.slice(0, 6).map(api.run));
      const flat = all.map((one) => ({ Kind: VERBS[one.verb], Method: one.method, Checkpoint: one.backbone, ...Object.fromEntries(Object.entries(one.request ?? {}).filter(([, v]) => v !== null && typeof v !== "object").map(([k, v]) => [k.replaceAll("_", " "), String(v)])) }));
      const names = [...new Set(flat.flatMap(Object.keys))].filter((name) => name !== "verb" && new Set(flat.map((one) => one[name])).size > 1);
      holder.replaceChildren(...all.map((run, i) => h("section", { "aria-label": run.title },
        h("h3", {}, h("a", { href: address("shelf", run.id), onclick: () => box.close() }, run.title)),
        h("div", { class: "compare-pictures" }, run.pictures.filter((one) => one.kind === "images").slice(0, 16).map((one) => image(one.url, one.caption || `${run.title} ${one.index + 1}`))),
        h("p", {}, run.in_words),
        h("dl", { class: "facts" }, names.map((name) => [h("dt", {}, name), h("dd", {}, flat[i][name] ?? "–")])))));
    } catch (error) {
      problem(wrong, error);
    }
  }

  const recall = dropzone({
    label: "How was this made?", hint: "Drop a picture that Offbeat, or another tool, has drawn.", take: async ([file]) => {
      const found = await api.recall(file);
      const wrong = h("div", {});
      const rows = [["Drawn by", found.by === "offbeat" ? "Offbeat" : found.by ? "another tool" : "not known"], ["Prompt", found.prompt], ["Seed", found.seed], ["Why not", found.reason]]
        .filter(([, value]) => value !== null && value !== undefined && value !== "");
      const again = h("button", { type: "button", class: "primary" }, "Draw it again");
      const fill = h("button", { type: "button" }, "Open with these settings");
      const box = dialog("How this picture was made", h("div", { class: "stack" },
        h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])),
        found.text ? h("pre", { tabindex: 0, role: "region", "aria-label": "What is written in the picture" }, found.text) : null,
        found.request ? h("div", { class: "row wrap" }, again, roomOf(found.request.verb) === "shelf" ? null : fill) : null, wrong));
      again.addEventListener("click", () => busy(again, wrong, async () => { await begin(found.request); box.close(); }));
      fill.addEventListener("click", () => { box.close(); const room = roomOf(found.request.verb); go(room); hand(room, { request: found.request }); });
    },
  });
  const importing = dropzone({
    label: "Bring a token or a LoRA", hint: "A .safetensors file becomes a concept here.", accept: ".safetensors", take: async ([file]) => {
      const made = await api.upload(file);
      const word = h("input", { placeholder: "handbag", maxlength: 200 });
      const wrong = h("div", {});
      const submit = h("button", { class: "primary" }, "Keep it");
      const form = h("form", { class: "stack" }, h("p", {}, made.name), field("Of which word", word, "What it is a kind of, if anything."), submit, wrong);
      const box = dialog("Bring a concept", form);
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        busy(submit, wrong, async () => { await begin({ verb: "import", upload: made.id, ...(word.value.trim() ? { word: word.value.trim() } : {}) }); box.close(); });
      });
    },
  });

  // --- one run, opened
  const back = h("a", { class: "button quiet", href: "#/shelf" }, "← Shelf");
  const detail = h("div", { class: "stack" });
  let opened = null;
  async function tell() {
    const id = here().id;
    const run = await api.run(id).catch(() => null);
    if (!run || here().id !== id) return;
    const key = JSON.stringify([run.id, run.title, run.note, run.favourite, run.shared, run.deleted, run.num_images]);
    if (opened === key) return;
    opened = key;
    const wrong = h("div", {});
    const title = h("input", { value: run.title, maxlength: 120 });
    const text = h("textarea", { rows: 3, maxlength: 5000, value: run.note });
    const save = h("button", {}, "Save");
    const form = h("form", { class: "stack" }, field("Title", title), field("Note", text), h("div", { class: "row" }, save), wrong);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      busy(save, wrong, async () => { await api.change(run.id, { title: title.value, note: text.value }); toast("Saved."); });
    });
    const family = h("div", {});
    api.lineage(run.id).then((tree) => family.replaceChildren(lineage(tree, run.id)), (error) => problem(family, error));
    fill(detail, h("div", { class: "panels" },
      run.own ? h("section", { class: "panel", "aria-label": "Title and note" }, h("h3", {}, "Title and note"), form) : null,
      h("section", { class: "panel", "aria-label": "Lineage" }, h("h3", {}, "Where it comes from"), family),
      h("section", { class: "panel", "aria-label": "Files" }, h("h3", {}, "Files"),
        h("ul", { class: "files" }, (run.files ?? []).filter((one) => !/^(images|ordinary|trials|sources)\//.test(one.name)).map((one) => h("li", {}, h("a", { href: one.url, target: "_blank", rel: "noopener" }, one.name), " ", h("span", { class: "hint" }, size(one.bytes)))))),
      h("section", { class: "panel wide", "aria-label": "Settings" }, h("details", {}, h("summary", {}, "Everything that it depends on"),
        h("pre", { tabindex: 0, role: "region", "aria-label": "Settings as JSON" }, JSON.stringify(run.settings, null, 1))))));
  }

  const HOW = { start: "goes on from", avoid: "keeps away from", unlike: "is unlike", concept: "draws", picture: "uses a picture of", parent: "made from" };
  function lineage(tree, id) {
    if (tree.nodes.length < 2) return h("p", { class: "hint" }, "It comes from no other run, and nothing was made of it yet.");
    const by = new Map(tree.nodes.map((one) => [one.id, one]));
    const link = (one) => h("a", { href: address("shelf", one.id), class: "kin" }, one.cover ? h("img", { src: one.cover, alt: "", class: "tiny" }) : null, h("span", {}, one.title));
    const walk = (at, from, to, seen) => {
      const edges = tree.edges.filter((edge) => edge[to] === at && by.has(edge[from]) && !seen.has(edge[from]));
      if (!edges.length) return null;
      return h("ul", { class: "tree" }, edges.map((edge) => h("li", {}, h("span", { class: "hint" }, to === "to" ? `${HOW[edge.how] ?? edge.how} ` : `${HOW[edge.how] ?? edge.how} it: `), link(by.get(edge[from])),
        walk(edge[from], from, to, new Set([...seen, edge[from]])))));
    };
    const up = walk(id, "from", "to", new Set([id]));
    const down = walk(id, "to", "from", new Set([id]));
    return h("div", {}, up ? [h("p", { class: "label" }, "This run"), up] : null, down ? [h("p", { class: "label" }, "What was made of it"), down] : null);
  }

  const shelfPage = h("div", { class: "stack" }, h("h1", {}, "Shelf"),
    h("form", { class: "filters", role: "search", "aria-label": "Find on the shelf", onsubmit: (event) => event.preventDefault() }, q, verb, which, sort),
    trouble, count, list, none, h("div", { class: "row" }, more), comparebar, h("div", { class: "row drops" }, recall, importing));
  const runPage = h("div", { class: "stack", hidden: true }, h("h1", { class: "unseen" }, "A run of the shelf"), h("p", {}, back), view.el, detail);
  const el = h("div", { class: "room one" }, shelfPage, runPage);

  let typing = 0;
  const filter = () => {
    note("shelf", "", { q: q.value.trim(), verb: verb.value, which: which.value, sort: sort.value === "-created" ? "" : sort.value });
    runs = [];
    load();
  };
  q.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(filter, 200); });
  for (const select of [verb, which, sort]) select.addEventListener("change", filter);
  more.addEventListener("click", () => load(true));
  let soon = 0;
  const again = () => {
    if (el.hidden) return;
    clearTimeout(soon);
    soon = setTimeout(() => { if (here().id) tell(); else load(); }, 150);
  };
  for (const name of ["finished", "changed", "reset"]) live.on(name, again);

  return {
    el, title: "Shelf",
    show({ id, params }) {
      shelfPage.hidden = Boolean(id);
      runPage.hidden = !id;
      view.show(id || null);
      if (id) {
        opened = null;
        detail.replaceChildren();
        return tell();
      }
      q.value = params.get("q") ?? q.value;
      for (const [select, name] of [[verb, "verb"], [which, "which"], [sort, "sort"]]) if (params.has(name)) select.value = params.get(name);
      return load();
    },
  };
}
