// A message of the system when a run ends while nobody looks at the page; only for whoever asks.

import { h, toast } from "../lib/dom.js";
import * as live from "../lib/live.js";

const KEY = "offbeat-notify";
const able = () => "Notification" in window;
const on = () => able() && Notification.permission === "granted" && localStorage.getItem(KEY) === "on";

/** A button that turns it on or off. */
export function notifyButton() {
  if (!able()) return null;
  const el = h("button", { type: "button", class: "quiet small" }, "Notify me");
  const tell = () => el.setAttribute("aria-pressed", String(on()));
  el.addEventListener("click", async () => {
    if (on()) localStorage.removeItem(KEY);
    else if ((await Notification.requestPermission()) === "granted") localStorage.setItem(KEY, "on");
    else toast("The browser does not allow notifications here.");
    tell();
  });
  tell();
  return el;
}

for (const [name, words] of [
  ["finished", "is finished"],
  ["failed", "has failed"],
]) {
  live.on(name, (data) => {
    if (!on() || !document.hidden) return;
    const title = live.jobs.get(data.job)?.title ?? "The run";
    new Notification(`${title} ${words}`, { tag: data.job, icon: data.run?.cover ?? "/static/icon.svg" });
  });
}
