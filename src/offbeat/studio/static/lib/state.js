// What every room knows: what the server has, and how to go elsewhere.

export const state = { about: null };

const ROOMS = { explore: "explore", fuse: "fuse", dream: "fuse", walk: "fuse", paint: "paint" };
export const roomOf = (verb) => ROOMS[verb] ?? "shelf";

/** Where one is: `#/room/id?name=value`. */
export function here() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [room = "", id = ""] = path.split("/");
  return { room, id: /^[0-9a-f]{16}$/.test(id) ? id : "", params: new URLSearchParams(search) };
}

export function address(room, id = "", params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return `#/${room}${id ? `/${id}` : ""}${kept.length ? `?${new URLSearchParams(kept)}` : ""}`;
}
export const go = (room, id, params) => {
  location.hash = address(room, id, params);
};

/** Change the address without going anywhere: a reload comes back to it. */
export const note = (room, id, params) => history.replaceState(null, "", address(room, id, params));

export const backbone = (name) => {
  const all = state.about.backbones;
  return all.find((one) => one.name === name) ?? all.find((one) => one.default) ?? all[0];
};
export const methods = (verb) => state.about.methods.filter((one) => one.verbs.includes(verb));
export const method = (name) => state.about.methods.find((one) => one.name === name);

/** What a method takes for words: its own list, or whatever the checkpoint knows. */
export const wordsOf = (name) => {
  const one = method(name);
  return one?.words?.length ? one.words : (backbone(fitting(name)).words ?? []);
};

/** The checkpoint that a request has to name: the chosen one, or one that the method runs on. */
export function fitting(name, chosen) {
  if (chosen) return chosen;
  const able = method(name)?.backbones ?? [];
  return !able.length || able.includes(backbone().name) ? undefined : able[0];
}

const takers = new Map();
const waiting = new Map();
/** Hand something to a room, which may not be open yet: a request to fill in, a picture to take. */
export function hand(room, what) {
  if (takers.has(room)) takers.get(room)(what);
  else waiting.set(room, what);
}
export function receive(room, take) {
  takers.set(room, take);
  // once the room that is being made has been shown
  setTimeout(() => {
    if (waiting.has(room)) take(waiting.get(room));
    waiting.delete(room);
  });
}
