// Elements without strings of HTML: nothing that a server or a file says is ever parsed as markup.

const SVG = "http://www.w3.org/2000/svg";

function put(el, props) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [k, v] of Object.entries(value)) el.style.setProperty(k, v);
    else if (name === "value") el.value = value;
    else el.setAttribute(name, value === true ? "" : String(value));
  }
}

/** An element: `h("button", {class: "quiet", onclick}, "Go")`. Children: nodes, text, arrays, null. */
export function h(tag, props, ...kids) {
  const el = document.createElement(tag);
  const { value, ...rest } = props ?? {};
  put(el, rest);
  el.append(...kids.flat(3).filter((kid) => kid !== null && kid !== undefined && kid !== false));
  if (value !== undefined && value !== null) el.value = value; // a select has its options only now
  return el;
}

/** The same for a drawing. */
export function s(tag, props, ...kids) {
  const el = document.createElementNS(SVG, tag);
  put(el, props);
  el.append(...kids.flat().filter(Boolean));
  return el;
}

/** Give an element these children and no others; null is none. */
export const fill = (el, ...kids) =>
  el.replaceChildren(...kids.flat(3).filter((kid) => kid !== null && kid !== undefined && kid !== false));

export const $ = (id) => document.getElementById(id);

let count = 0;
/** An id that no other element of this page has. */
export const uid = (stem) => `${stem}-${++count}`;

/** A field with its label; `hint` is read with it. */
export function field(label, control, hint) {
  control.id ||= uid("f");
  const note = hint ? h("p", { class: "hint", id: `${control.id}-hint` }, hint) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, note);
}

/** Options of a select from `[value, text]` or plain values. */
export function options(list) {
  return list.map((one) => {
    const [value, text] = Array.isArray(one) ? one : [one, one];
    return h("option", { value }, text);
  });
}

/** A choice of a few, as radio buttons that look like one control. */
export function segments(label, list, chosen, onchange) {
  const name = uid("seg");
  const inputs = list.map(([value, text]) => {
    const input = h("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => onchange(value));
    return h("label", {}, input, h("span", {}, text));
  });
  const el = h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, label), inputs);
  el.choose = (value) => {
    for (const input of el.querySelectorAll("input")) input.checked = input.value === value;
  };
  return el;
}

/** Read to a screen reader, shown to nobody. */
export function say(text) {
  $("say").textContent = text;
}

/** The sentence of an error that a job keeps. */
export const fault = (error) => (error ? new Error(error.error ?? String(error)) : null);

/** Show what went wrong, where it happened; null takes it away. */
export function problem(place, error) {
  place.replaceChildren();
  if (!error || error.name === "AbortError") return;
  const spot = (where) =>
    [where]
      .flat()
      .filter((part) => part !== "body")
      .join(" ");
  const fields = (error.fields ?? []).filter((one) => one.where && one.what && !error.message.includes(one.what));
  place.append(
    h(
      "div",
      { class: "problem", role: "alert" },
      h("p", {}, error.message),
      fields.length
        ? h(
            "ul",
            {},
            fields.map((one) => h("li", {}, `${spot(one.where)}: ${one.what}`)),
          )
        : null,
      error.status === 401 ? h("a", { href: "/login" }, "Enter the token") : null,
    ),
  );
}

let undo = null;
addEventListener("keydown", (event) => {
  if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.shiftKey || !undo) return;
  if (event.target.closest?.("input, textarea")) return; // there it takes back what was typed
  event.preventDefault();
  undo();
});

/** A message that goes by itself, with an action that can undo what it tells; so does Ctrl-Z. */
export function toast(text, action, act) {
  const el = h("div", { class: "toast" }, h("span", {}, text));
  const take = () => {
    gone();
    act();
  };
  const gone = () => {
    el.remove();
    if (undo === take) undo = null;
  };
  if (action === "Undo") undo = take;
  let timer = setTimeout(gone, action ? 12000 : 5000);
  if (action) {
    el.append(h("button", { class: "quiet", type: "button", onclick: take }, action));
    // whoever reads or reaches for it has all the time they want
    for (const on of ["pointerenter", "focusin"]) el.addEventListener(on, () => clearTimeout(timer));
    for (const off of ["pointerleave", "focusout"])
      el.addEventListener(off, () => {
        timer = setTimeout(gone, 6000);
      });
  }
  el.append(h("button", { class: "quiet", type: "button", "aria-label": "Dismiss", onclick: gone }, "×"));
  $("toasts").append(el);
}

/** Close every dialog: it belongs to the room that was left. */
export function closeDialogs() {
  for (const el of document.querySelectorAll("dialog[open]")) el.close();
}

/** A dialog that is gone when closed, and gives the focus back. */
export function dialog(title, ...kids) {
  const before = document.activeElement;
  const id = uid("d");
  const el = h(
    "dialog",
    { "aria-labelledby": id },
    h(
      "div",
      { class: "dialog-head" },
      h("h2", { id }, title),
      h("button", { class: "quiet", type: "button", "aria-label": "Close", onclick: () => el.close() }, "×"),
    ),
    ...kids,
  );
  el.addEventListener("close", () => {
    el.remove();
    if (before?.isConnected) before.focus();
  });
  el.addEventListener("click", (event) => {
    if (event.target === el) el.close();
  });
  document.body.append(el);
  el.showModal();
  return el;
}

/** While it works a button cannot be pressed twice; what fails is shown in `place`. */
export async function busy(button, place, work) {
  if (button.getAttribute("aria-busy") === "true") return undefined;
  button.setAttribute("aria-busy", "true");
  problem(place, null);
  try {
    return await work();
  } catch (error) {
    problem(place, error);
    return undefined;
  } finally {
    button.removeAttribute("aria-busy");
  }
}
