// What happens on the server, for every part of the page: one stream, and the jobs as they stand.

import * as api from "./api.js";

export const jobs = new Map();
export let others = 0;
const bus = new EventTarget();
const NAMES = [
  "queued",
  "started",
  "cancelled",
  "failed",
  "interrupted",
  "progress",
  "picture",
  "map",
  "point",
  "verdict",
  "finished",
  "changed",
  "reset",
];

/** Call `hear(data)` at each event of a name; answers how to stop. */
export function on(name, hear) {
  const wrapped = (event) => hear(event.detail);
  bus.addEventListener(name, wrapped);
  return () => bus.removeEventListener(name, wrapped);
}
const tell = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));

/** Take a job that a request answered, before its event comes. */
export function keep(entry) {
  const known = jobs.get(entry.id);
  // an answer may overtake the event of a later state, or come after it
  if (known && entry.attempts === known.attempts && known.state !== "queued" && entry.state === "queued") return;
  jobs.set(entry.id, entry);
  tell("jobs", entry);
}

/** Read the lists again: at the start, and where the stream has forgotten what happened. */
export async function refresh() {
  const answer = await api.jobs();
  jobs.clear();
  others = answer.others;
  for (const entry of answer.jobs) jobs.set(entry.id, entry);
  tell("jobs", null);
}

function apply(name, data) {
  if (data.entry) jobs.set(data.job, data.entry);
  const known = jobs.get(data.job);
  // a preview is drawn between two steps: that is no stage that people wait for
  if (known && name === "progress" && data.stage !== "preview") {
    Object.assign(known, { stage: data.stage, done: data.done, total: data.total, seconds_left: data.seconds_left });
    if (known.state === "queued") known.state = "running";
  }
  if (known && name === "picture") {
    const { job: _, ...picture } = data;
    const same = (one) => ["kind", "trial", "step", "index"].every((name) => one[name] === picture[name]);
    if (!known.pictures.some(same)) known.pictures.push(picture);
  }
  tell(name, data);
  if (data.job && name !== "point" && name !== "map") tell("jobs", known ?? null);
}

let stream;
let wait = 1000;
let broken = false;

/** Open the stream; it opens itself again for as long as the page is there. */
export function listen() {
  stream?.close();
  stream = new EventSource(`${api.BASE}/events`);
  stream.addEventListener("open", () => {
    wait = 1000;
    tell("line", "");
    // a server that refused in between may have run on: what was missed is in the lists
    if (broken)
      refresh()
        .then(() => tell("reset", {}))
        .catch(() => {});
    broken = false;
  });
  stream.addEventListener("error", () => {
    tell("line", "Connection lost; trying again …");
    if (stream.readyState !== EventSource.CLOSED) return; // the browser tries by itself
    broken = true;
    setTimeout(listen, wait);
    wait = Math.min(wait * 2, 15000);
  });
  for (const name of NAMES) {
    stream.addEventListener(name, async (event) => {
      const data = JSON.parse(event.data);
      if (name === "reset") await refresh().catch(() => {});
      apply(name, data);
    });
  }
}

// A browser keeps only six connections to a host, for all its tabs: a tab that nobody sees gives
// its stream back after a while, and reads the lists again when it is looked at.
let asleep = null;
function sleep() {
  stream?.close();
  stream = null;
}
function wake() {
  clearTimeout(asleep);
  if (stream) return;
  broken = true;
  listen();
}
document.addEventListener("visibilitychange", () => {
  clearTimeout(asleep);
  if (document.hidden) asleep = setTimeout(sleep, 30000);
  else wake();
});
addEventListener("pagehide", sleep);
addEventListener("pageshow", (event) => {
  if (event.persisted) wake();
});
