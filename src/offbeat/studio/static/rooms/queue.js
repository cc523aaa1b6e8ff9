// Queue: what runs, what waits, how far it is, and what became of the rest.

import * as api from "../lib/api.js";
import { busy, fault, h, problem } from "../lib/dom.js";
import { left, stage, STATES, VERBS, when } from "../lib/format.js";
import * as live from "../lib/live.js";
import { roomOf } from "../lib/state.js";

const OPEN = ["running", "queued"];

export function queue() {
  const rows = new Map();
  const summary = h("p", { class: "lead", "aria-live": "polite" });
  const list = h("ul", { class: "jobs", "aria-label": "Jobs" });
  const none = h("p", { class: "hint" }, "Nothing has been asked for yet.");
  const trouble = h("div", {});

  function row(id) {
    const name = h("a", {});
    const told = h("p", { class: "hint" });
    const bar = h("progress", {});
    const work = h("button", { type: "button" });
    const wrong = h("div", {});
    const state = h("span", { class: "state" });
    work.addEventListener("click", () =>
      busy(work, wrong, async () => {
        const open = OPEN.includes(live.jobs.get(id)?.state);
        live.keep(await (open ? api.cancel(id) : api.resume(id)));
        await live.refresh();
      }),
    );
    const thumb = h("span", { class: "thumb" });
    const el = h(
      "li",
      { class: "job" },
      thumb,
      h("div", { class: "job-text" }, h("p", {}, name, " ", state), told, bar, wrong),
      work,
    );
    return { el, name, told, bar, work, wrong, state, thumb };
  }
  function fill(one, job) {
    const title = `${job.title || VERBS[job.verb]}`;
    one.name.textContent = title;
    one.name.href = `#/${roomOf(job.verb)}/${job.id}`;
    one.state.textContent = STATES[job.state];
    one.state.className = `state ${job.state}`;
    const open = OPEN.includes(job.state);
    one.told.textContent = [
      VERBS[job.verb],
      job.state === "running" ? stage(job.stage) : "",
      job.state === "running" && job.total ? `${job.done} of ${job.total}` : "",
      job.state === "running" ? left(job.seconds_left) : "",
      job.state === "queued" && job.position ? `${job.position} before it` : "",
      open ? "" : when(job.ended),
    ]
      .filter(Boolean)
      .join(" · ");
    one.bar.hidden = job.state !== "running";
    one.bar.setAttribute("aria-label", `Progress of ${title}`);
    if (job.total) {
      one.bar.max = job.total;
      one.bar.value = job.done;
    } else one.bar.removeAttribute("value");
    one.work.hidden = job.state === "finished";
    one.work.textContent = open ? "Cancel" : "Resume";
    one.work.setAttribute("aria-label", `${one.work.textContent} ${title}`);
    const wrong = fault(job.error)?.message ?? "";
    if (job.state === "failed" && one.wrong.dataset.of !== wrong) {
      one.wrong.dataset.of = wrong;
      problem(one.wrong, fault(job.error));
    } else if (job.state !== "failed" && one.wrong.dataset.of) {
      one.wrong.dataset.of = "";
      problem(one.wrong, null);
    }
    const last = job.pictures.findLast((one) => one.kind !== "ordinary") ?? job.pictures[job.pictures.length - 1];
    if (last && one.thumb.dataset.url !== last.url) {
      one.thumb.dataset.url = last.url;
      one.thumb.replaceChildren(h("img", { src: last.url, alt: "", class: "tiny" }));
    }
  }
  function draw() {
    const all = [...live.jobs.values()].sort(
      (a, b) => rank(a) - rank(b) || (OPEN.includes(a.state) ? a.created - b.created : b.created - a.created),
    );
    for (const [id, one] of rows)
      if (!live.jobs.has(id)) {
        one.el.remove();
        rows.delete(id);
      }
    all.forEach((job, i) => {
      if (!rows.has(job.id)) rows.set(job.id, row(job.id));
      const one = rows.get(job.id);
      fill(one, job);
      if (list.children[i] !== one.el) list.insertBefore(one.el, list.children[i] ?? null);
    });
    const running = all.filter((job) => job.state === "running").length;
    const waiting = all.filter((job) => job.state === "queued").length;
    const text = `${running ? `${running} running` : "Nothing runs"}, ${waiting} waiting${live.others ? `; ${live.others} of other people` : ""}.`;
    if (summary.textContent !== text) summary.textContent = text;
    none.hidden = all.length > 0;
  }
  const rank = (job) => ({ running: 0, queued: 1 })[job.state] ?? 2;
  const el = h("div", { class: "room one" }, h("h1", {}, "Queue"), summary, trouble, none, list);
  live.on("jobs", () => {
    if (!el.hidden) draw();
  });
  return {
    el,
    title: "Queue",
    async show() {
      draw();
      try {
        await live.refresh();
      } catch (error) {
        problem(trouble, error);
      }
    },
  };
}
