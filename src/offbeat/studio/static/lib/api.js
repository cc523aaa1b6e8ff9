// The API, as docs/studio.md describes it; the page uses nothing else.

export const BASE = "/api/v1";

/** What the server says went wrong, in its own words. */
export class Problem extends Error {
  constructor(status, body) {
    super(body?.error ?? `The server answered ${status}, and not in the way that was expected. Its log says more.`);
    this.status = status;
    this.kind = body?.kind ?? "failed";
    this.fields = body?.fields ?? [];
  }
}

/** How long the server may take to answer; an upload may be slow on its way. */
const SECONDS = 60;
const UPLOAD_SECONDS = 600;

async function send(method, path, { body, form, signal, as = "json" } = {}) {
  const limit = AbortSignal.timeout(1000 * (form ? UPLOAD_SECONDS : SECONDS));
  const init = {
    method,
    signal: signal ? AbortSignal.any([signal, limit]) : limit,
    headers: {},
    credentials: "same-origin",
  };
  if (form) init.body = form;
  else if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(BASE + path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "TimeoutError")
      throw new Problem(0, { error: "The studio does not answer. It may be busy; try again.", kind: "timeout" });
    throw new Problem(0, {
      error: "The studio cannot be reached. Is `offbeat studio` still running?",
      kind: "offline",
    });
  }
  if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => null));
  if (answer.status === 204) return null;
  if (as === "file") return { blob: await answer.blob(), name: named(answer) };
  return as === "blob" ? answer.blob() : answer.json();
}

const named = (answer) => /filename="?([^";]+)/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? "concept";

const query = (given) => {
  const kept = Object.entries(given).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return kept.length ? `?${new URLSearchParams(kept)}` : "";
};

export const about = () => send("GET", "/about");
export const jobs = (state = "") => send("GET", `/jobs${query({ state })}`);
export const job = (id) => send("GET", `/jobs/${id}`);
export const post = (body) => send("POST", "/jobs", { body });
export const cancel = (id) => send("DELETE", `/jobs/${id}`);
export const resume = (id) => send("POST", `/jobs/${id}/resume`);
export const runs = (given = {}, signal = undefined) => send("GET", `/runs${query(given)}`, { signal });
export const run = (id) => send("GET", `/runs/${id}`);
export const change = (id, body) => send("PATCH", `/runs/${id}`, { body });
export const mark = (id, body) => send("PUT", `/runs/${id}/mark`, { body });
export const remove = (id) => send("DELETE", `/runs/${id}`);
export const emptyTrash = () => send("DELETE", "/trash");
export const restore = (id) => send("POST", `/runs/${id}/restore`);
export const map = (id) => send("GET", `/runs/${id}/map`);
export const curve = (id) => send("GET", `/runs/${id}/curve`);
export const lineage = (id) => send("GET", `/runs/${id}/lineage`);
export const goOn = (id, body) => send("POST", `/runs/${id}/continue`, { body });
export const sketch = (body, lane, signal) => send("POST", `/sketch${query({ lane })}`, { body, signal, as: "blob" });
export const exported = (id, given) => send("GET", `/runs/${id}/export${query(given)}`, { as: "file" });

/** Where a picture is that a request names. */
export const pictureUrl = (ref) =>
  ref.upload
    ? `${BASE}/uploads/${ref.upload}/picture`
    : `${BASE}/runs/${ref.run}/files/${ref.kind === "ordinary" ? "ordinary" : "images"}/${String(ref.index ?? 0).padStart(4, "0")}.png`;

const formOf = (file) => {
  const form = new FormData();
  form.append("file", file, file.name ?? "picture.png");
  return form;
};
export const upload = (file) => send("POST", "/uploads", { form: formOf(file) });
export const recall = (file) => send("POST", "/recall", { form: formOf(file) });
