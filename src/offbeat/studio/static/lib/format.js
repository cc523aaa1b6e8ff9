// How numbers, times and names are said.

export const percent = (share) => `${Math.round(share * 100)} %`;

export function left(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 1) return "a moment left";
  if (seconds < 90) return `${Math.round(seconds)} s left`;
  return `${Math.round(seconds / 60)} min left`;
}

export function when(seconds) {
  if (!seconds) return "";
  const ago = Date.now() / 1000 - seconds;
  if (ago < 60) return "just now";
  if (ago < 3600) return `${Math.floor(ago / 60)} min ago`;
  const date = new Date(seconds * 1000);
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return date.toDateString() === new Date().toDateString() ? `today, ${time}` : `${date.toLocaleDateString()}, ${time}`;
}

export const number = (value, digits = 1) =>
  value === null || value === undefined ? "–" : Number(value).toFixed(digits);

export function size(bytes) {
  return bytes < 1048576 ? `${Math.max(1, Math.round(bytes / 1024))} KiB` : `${(bytes / 1048576).toFixed(1)} MiB`;
}

/** A quantile as people say it: never "100 %", for nothing is farther than everything. */
export const beyond = (quantile) => `${Math.floor(quantile >= 0.999 ? 999 : quantile * 1000) / 10} %`;

const STAGES = {
  "what is ordinary": "measuring what is ordinary",
  "ordinary ones": "drawing ordinary ones",
  preview: "searching",
};
export const stage = (name) => STAGES[name] ?? name;

/** "classifier:judge@2aa382ff" is the classifier. */
export const judge = (name) => (name ?? "").split(/[:@]/)[0];

export const VERBS = {
  explore: "Exploration",
  fuse: "Mixture",
  dream: "Dice",
  walk: "Walk",
  paint: "Painting",
  generate: "Plain prompt",
  render: "Rendering",
  import: "Import",
  archive: "Archive",
  sweep: "Path",
  grid: "Triangle",
  evolve: "Evolution",
  sketch: "Sketch",
};
/** Shares as people say them: "75 % dragon, 25 % pumpkin". */
export const shares = (weights) =>
  Object.entries(weights)
    .filter(([, share]) => share > 0)
    .map(([word, share]) => `${Math.round(share * 1000) / 10} % ${word}`)
    .join(", ");

export const STATES = {
  queued: "waiting",
  running: "running",
  finished: "finished",
  failed: "failed",
  cancelled: "cancelled",
  interrupted: "interrupted",
};

/** "still a handbag: yes, 97 %" */
export function verdict(one, subject) {
  const word = { yes: "yes", no: "no", unknown: "no answer" }[one.answer] ?? one.answer;
  const sure = one.answer !== "unknown" && typeof one.probability === "number" ? `, ${percent(one.probability)}` : "";
  return `still ${/^[aeiou]/i.test(subject) ? "an" : "a"} ${subject}? ${word}${sure}`;
}
export const MARKS = { yes: "✓", no: "✕", unknown: "?" };

export function pictureName(picture, title) {
  const kind = { ordinary: "ordinary", previews: "preview", images: "" }[picture.kind] ?? "";
  const read = picture.caption && (picture.asked ? `reads as ${picture.caption}` : picture.caption);
  const parts = [picture.asked, read].filter(Boolean);
  if (!parts.length) parts.push([kind, title].filter(Boolean).join(" "));
  parts.push(picture.step ? `step ${picture.step}` : `picture ${picture.index + 1}`);
  if (typeof picture.seen === "number") parts.push(`${number(picture.seen)} times as different`);
  else if (typeof picture.distance === "number") parts.push(`distance ${number(picture.distance)}`);
  return parts.join(", ");
}
