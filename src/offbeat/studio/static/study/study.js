// A rater's page: one decision a screen. Each decision has a key of its own, so that a request
// which is sent twice counts once.

import { $, fill, h } from "../lib/dom.js";
import { WORDS } from "./words.js";

const token = location.pathname.split("/")[2];
const main = $("main");
let state, words, began, ready, hasBegun = false, busy = false, order = [];

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (n) => n.toString(16).padStart(2, "0")).join("");

async function ask(path, body) {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const options = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
  for (let wait = 500; ; wait = Math.min(wait * 2, 15000)) {
    let answer;
    try {
      answer = await fetch(`/api/study/${path}`, { ...options, signal: AbortSignal.timeout(20000) });
    } catch {
      say(words?.offline ?? "");
    }
    if (answer?.ok) return answer.json();
    if (answer && ![429, 502, 503, 504].includes(answer.status)) throw await answer.json();
    await pause(wait); // the same key again: it counts once
  }
}

const say = (text) => { $("say").textContent = text; };

async function step(path, body) {
  if (busy) return;
  busy = true;
  try {
    state = await ask(path, body);
  } catch (error) {
    if (error?.kind !== "conflict") { busy = false; return fail(error); }
    state = await ask("state"); // another window of the same rater went on
  }
  busy = false;
  show();
}

const give = (value) => {
  if (!ready) return;
  step("answers", { key: newKey(), position: state.position, value, seconds: (performance.now() - began) / 1000 });
};
const undo = () => { if (state.position > 0 && state.trial) step("undo", { key: newKey() }); };

function fail(error) {
  fill(main, h("p", { class: "problem", role: "alert" }, `${words?.lost ?? ""} ${error?.error ?? error}`));
}

function welcome() {
  const go = () => { hasBegun = true; show(); };
  fill(main,
    h("h1", {}, state.title),
    state.introduction ? h("p", { class: "text" }, state.introduction) : null,
    state.consent ? h("p", { class: "text" }, state.consent) : null,
    h("button", { class: "primary begin", type: "button", onclick: go }, state.consent ? words.agree : words.begin));
}

function picture(name, at, label) {
  const img = h("img", { src: `/pictures/${name}.png`, alt: label, draggable: "false" });
  if (state.kind === "pairs") return h("button", { type: "button", disabled: true, onclick: () => give(at === 0 ? "left" : "right") }, img);
  if (state.kind === "ranking") {
    const place = order.indexOf(at);
    const badge = place < 0 ? null : h("span", { class: "rank" }, String(place + 1));
    return h("button", { type: "button", disabled: true, "aria-pressed": String(place >= 0), onclick: () => rank(at) }, img, badge);
  }
  return h("div", { class: "still" }, img);
}

function rank(at) {
  if (!ready || order.includes(at)) return;
  order.push(at);
  const num = state.trial.pictures.length;
  if (order.length === num - 1) order.push([...Array(num).keys()].find((one) => !order.includes(one)));
  if (order.length === num) { const value = order; order = []; give(value); }
  else draw();
}

function answers() {
  const button = (value, text, small) =>
    h("button", { type: "button", disabled: true, onclick: () => give(value) }, text, small ? h("small", {}, small) : null);
  if (state.kind === "pairs") return state.ties ? [button("equal", words.equal)] : [];
  if (state.kind === "yes-no") return [button("yes", words.yes), button("no", words.no)];
  if (state.kind === "ranking") return [h("button", { class: "quiet", type: "button", onclick: () => { order = []; draw(); } }, words.again)];
  const { low, high, anchors } = state.scale;
  return Array.from({ length: high - low + 1 }, (_, n) => button(low + n, String(low + n), anchors[low + n]));
}

function question() {
  const wanted = state.trial.expected;
  if (wanted === null) return state.trial.question;
  if (Array.isArray(wanted)) return words.check.order;
  return typeof wanted === "number" ? words.check.number(wanted) : words.check[wanted];
}

const hint = () => ({
  pairs: state.ties ? words.keysTies : words.keysPairs, scale: words.keysScale, "yes-no": words.keysYes, ranking: words.rank,
})[state.kind];

function draw() {
  const { pictures } = state.trial;
  const label = (at) => (state.kind !== "pairs" ? words.picture(at + 1) : at === 0 ? words.left : words.right);
  const shape = pictures.length === 1 ? "pictures alone" : pictures.length === 2 ? "pictures two" : "pictures";
  const asked = h("h1", { id: "question", tabindex: "-1" }, question());
  fill(main,
    h("div", { class: "top" },
      h("progress", { value: state.position, max: state.total, "aria-label": words.progress(state.position, state.total) }),
      h("span", { class: "hint" }, words.progress(state.position + 1, state.total))),
    state.trial.is_practice ? h("p", { class: "note" }, words.practice) : null,
    asked,
    h("div", { class: shape, role: "group", "aria-labelledby": "question" }, pictures.map((name, at) => picture(name, at, label(at)))),
    h("div", { class: "answers" }, answers()),
    h("div", { class: "foot" },
      h("button", { class: "quiet", type: "button", disabled: state.position === 0, onclick: undo }, words.undo),
      h("span", { class: "hint" }, hint()),
      h("button", { class: "quiet", type: "button", onclick: theme }, words.theme)));
  unlock();
  return asked;
}

function unlock() {
  if (ready) for (const button of main.querySelectorAll(".pictures button, .answers button")) button.disabled = false;
}

async function show() {
  document.documentElement.lang = state.language;
  document.title = state.title;
  for (const name of state.ahead) new Image().src = `/pictures/${name}.png`;
  if (!state.trial) { fill(main, h("h1", { tabindex: "-1" }, words.done)); return; }
  if (!hasBegun && state.position === 0) return welcome();
  hasBegun = true;
  ready = false;
  order = [];
  const position = state.position;
  const asked = draw();
  asked.focus({ preventScroll: true }); // a screen reader reads the new question
  await Promise.allSettled([...main.querySelectorAll("img")].map((img) => img.decode()));
  if (state.position !== position) return;
  began = performance.now();
  await pause(state.min_seconds * 1000);
  if (state.position !== position || !state.trial) return;
  ready = true;
  unlock();
  main.dataset.ready = String(position);
}

function theme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try { localStorage.setItem("offbeat-theme", root.dataset.theme); } catch { /* storage may be switched off */ }
}

addEventListener("keydown", (event) => {
  if (!state?.trial || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key.toLowerCase();
  const number = /^[0-9]$/.test(key) ? Number(key) : null;
  let value = null;
  if (key === "backspace" || key === "u") return undo();
  if (state.kind === "pairs") value = { arrowleft: "left", arrowright: "right", arrowdown: state.ties ? "equal" : null }[key] ?? null;
  else if (state.kind === "yes-no") value = { y: "yes", n: "no", arrowleft: "yes", arrowright: "no" }[key] ?? null;
  else if (state.kind === "ranking" && number > 0 && number <= state.trial.pictures.length) return rank(number - 1);
  else if (state.kind === "scale" && number !== null && number >= state.scale.low && number <= state.scale.high) value = number;
  if (value !== null) { event.preventDefault(); give(value); }
});

try {
  words = WORDS[navigator.language.slice(0, 2)] ?? WORDS.en;
  state = await ask("state");
  words = WORDS[state.language.slice(0, 2)] ?? WORDS.en;
  show();
} catch (error) {
  fail(error);
}
