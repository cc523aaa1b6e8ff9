// What stands under and around pictures of a run that draws many things.

import { shares } from "../lib/format.js";

/** What a picture of many was asked to be: its words, its strength; null where nothing sets it apart. */
export function askedOf(run, picture, list, over) {
  const { request = {}, concepts = [] } = run;
  const many = list.filter((one) => one.kind === picture.kind).length;
  if (picture.kind === "ordinary" && request.verb === "fuse") {
    const each = many / request.sources.length;
    return over && Number.isInteger(each) ? (request.sources[Math.floor(picture.index / each)]?.word ?? null) : null;
  }
  if (picture.kind !== "images") return null;
  if (request.verb === "paint" && request.sweep) {
    const each = Math.max(1, Math.round(many / request.sweep));
    return over ? `strength ${(Math.floor(picture.index / each) / (request.sweep - 1)).toFixed(2)}` : null;
  }
  const concept = concepts.length > 1 ? concepts[picture.concept ?? -1] : null;
  if (concept?.weights) return shares(concept.weights);
  return typeof concept?.share === "number" ? `${Math.round(concept.share * 100)} % of the way` : null;
}

/** Lay three words out as a triangle: rows of one, two, three ... as the concepts come. */
export function layTriangle(run, found, list) {
  const rows = Math.round((Math.sqrt(8 * found.length + 1) - 1) / 2);
  const is = run?.request?.layout === "grid" && found.length > 2 && (rows * (rows + 1)) / 2 === found.length;
  list.classList.toggle("triangle", is);
  list.style.setProperty("--columns", String(2 * rows));
  [...list.children].forEach((cell, i) => {
    const row = Math.floor((Math.sqrt(8 * i + 1) - 1) / 2);
    const at = i - (row * (row + 1)) / 2;
    cell.style.gridRow = is ? String(row + 1) : "";
    cell.style.gridColumn = is ? `${rows - row + 2 * at} / span 2` : "";
  });
}
