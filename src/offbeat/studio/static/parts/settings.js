// Fields for a method's own settings, from the schema that `about` gives.

import { field, h, options } from "../lib/dom.js";

const spoken = (name) => name.replaceAll("_", " ");

function control(name, schema) {
  const one = schema.anyOf?.find((kind) => kind.type !== "null") ?? schema;
  const start = schema.default;
  if (one.enum)
    return h(
      "select",
      {},
      options([
        ["", `as usual${start === undefined || start === null ? "" : ` (${start})`}`],
        ...one.enum.filter((v) => v !== null),
      ]),
    );
  if (one.type === "boolean")
    return h(
      "select",
      {},
      options([
        ["", `as usual (${start ? "yes" : "no"})`],
        ["true", "yes"],
        ["false", "no"],
      ]),
    );
  const numeric = one.type === "integer" || one.type === "number";
  return h("input", {
    type: numeric ? "number" : "text",
    step: numeric ? (one.type === "integer" ? 1 : "any") : null,
    min: one.minimum ?? null,
    max: one.maximum ?? null,
    placeholder: start === null || start === undefined ? "as usual" : String(start),
  });
}

/** A folded form; `read()` answers only what was changed. */
export function settingsForm() {
  const body = h("div", { class: "settings" });
  const el = h("details", {}, h("summary", {}, "Settings of the method"), body);
  let fields = [];
  function show(method) {
    const all = Object.entries(method?.settings?.properties ?? {});
    fields = all
      .filter(
        ([, schema]) => ["boolean", "integer", "number", "string", undefined].includes(schema.type) || schema.enum,
      )
      .map(([name, schema]) => ({ name, schema, input: control(name, schema) }));
    body.replaceChildren(...fields.map(({ name, schema, input }) => field(spoken(name), input, schema.description)));
    el.hidden = fields.length === 0;
  }
  function read() {
    const config = {};
    for (const { name, schema, input } of fields) {
      if (input.value === "") continue;
      const kind = schema.anyOf?.find((one) => one.type !== "null") ?? schema;
      if (kind.type === "boolean") config[name] = input.value === "true";
      else if (kind.type === "integer" || kind.type === "number") config[name] = Number(input.value);
      else config[name] = input.value;
    }
    return config;
  }
  function write(config) {
    for (const { name, input } of fields) {
      const value = config?.[name];
      input.value = value === undefined || value === null ? "" : String(value);
    }
  }
  return { el, show, read, write };
}
