// The page: which room is open, the theme, and the line to the server.

import * as api from "./lib/api.js";
import { $, closeDialogs, h, problem } from "./lib/dom.js";
import * as live from "./lib/live.js";
import { here, state } from "./lib/state.js";
import { listenForKeys } from "./parts/keys.js";
import { explore } from "./rooms/explore.js";
import { fuse } from "./rooms/fuse.js";
import { paint } from "./rooms/paint.js";
import { queue } from "./rooms/queue.js";
import { shelf } from "./rooms/shelf.js";

const ROOMS = { explore, fuse, paint, shelf, queue };
const open = new Map();
let current = null;

const links = Object.keys(ROOMS).map((name) => {
  const badge = name === "queue" ? h("span", { class: "count", hidden: true }) : null;
  return { name, badge, a: h("a", { href: `#/${name}` }, name[0].toUpperCase() + name.slice(1), badge) };
});
$("rooms").append(...links.map(({ a }) => h("li", {}, a)));

function show(event) {
  const at = here();
  const name = ROOMS[at.room] ? at.room : "explore";
  // rooms note what they show in the address, so the one that was left is read from there
  if (current && event?.oldURL) current.hash = new URL(event.oldURL).hash;
  if (current && current.name !== name) closeDialogs();
  for (const link of links) {
    if (link.name === name) link.a.setAttribute("aria-current", "page");
    else link.a.removeAttribute("aria-current");
    // going back to a room finds it as it was left
    if (current && link.name === current.name) link.a.href = name === link.name ? `#/${name}` : current.hash;
  }
  if (!open.has(name)) {
    const room = ROOMS[name]();
    open.set(name, room);
    $("main").append(room.el);
  }
  for (const [other, room] of open) {
    if (other !== name && !room.el.hidden) room.hide?.();
    room.el.hidden = other !== name;
  }
  const room = open.get(name);
  document.title = `${room.title} · Offbeat`;
  if (current && current.name !== name) {
    scrollTo(0, 0);
    $("main").focus({ preventScroll: true });
  }
  current = { name, hash: location.hash || "#/explore" };
  room.show(at);
}

function themes() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const now = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  const button = $("theme");
  const tell = () => {
    button.textContent = now() === "dark" ? "Light theme" : "Dark theme";
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = now() === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("offbeat-theme", document.documentElement.dataset.theme);
    } catch {
      /* then it lasts as long as the page */
    }
    tell();
    dispatchEvent(new Event("themechange"));
  });
  dark.addEventListener("change", tell);
  tell();
}

async function begin() {
  themes();
  listenForKeys();
  $("skip").addEventListener("click", (event) => {
    event.preventDefault();
    $("main").focus();
  });
  // a file that misses its place must not replace the page
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
  live.on("line", (text) => {
    $("line").textContent = text;
  });
  const badge = links.find((link) => link.name === "queue").badge;
  live.on("jobs", () => {
    const open_ = [...live.jobs.values()].filter((job) => job.state === "queued" || job.state === "running").length;
    const text = open_ ? String(open_) : "";
    if (badge.textContent !== text) {
      badge.textContent = text;
      badge.hidden = !open_;
    }
  });
  try {
    state.about = await api.about();
    await live.refresh();
  } catch (error) {
    problem($("main"), error);
    if (error.kind === "offline") setTimeout(begin_, 2000);
    return;
  }
  $("boot")?.remove();
  live.listen();
  addEventListener("hashchange", show);
  show();
}
const begin_ = () => location.reload();

begin();
