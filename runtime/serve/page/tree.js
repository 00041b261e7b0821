// JSON to look at: objects as names and values, lists of equal objects as tables.

import { element } from "./dom.js";

/**
 * @param {unknown} value
 * @returns {HTMLElement}
 */
export function tree(value) {
  if (Array.isArray(value)) return isTable(value) ? table(value) : list(value);
  return value !== null && typeof value === "object" ? object(value) : scalar(value);
}

/** @param {unknown} value */
const isScalar = (value) => value === null || typeof value !== "object";

/** @param {unknown} value */
function scalar(value) {
  const kind = value === null ? "null" : typeof value;
  return element("span", { className: `value ${kind}` }, value === "" ? "(empty)" : String(value));
}

/** @param {object} value */
function object(value) {
  const entries = Object.entries(value);
  if (!entries.length) return element("span", { className: "value null" }, "(nothing)");
  const rows = entries.map(([name, inner]) => {
    if (isScalar(inner)) return element("div", { className: "pair" }, element("dt", {}, name), element("dd", {}, tree(inner)));
    return element("div", { className: "pair deep" }, element("dt", {}, name), element("dd", {}, tree(inner)));
  });
  return element("dl", { className: "tree" }, ...rows);
}

/** @param {unknown[]} values */
function list(values) {
  if (!values.length) return element("span", { className: "value null" }, "(none)");
  const flat = values.every((value) => isScalar(value) && String(value).length < 40);
  return element("ul", { className: flat ? "tags" : "items" }, ...values.map((value) => element("li", {}, tree(value))));
}

/** @param {unknown[]} values */
function isTable(values) {
  return (
    values.length > 0 &&
    values.every((value) => value !== null && typeof value === "object" && !Array.isArray(value)) &&
    values.every((value) => Object.values(/** @type {object} */ (value)).every(isScalar)) &&
    new Set(values.flatMap((value) => Object.keys(/** @type {object} */ (value)))).size <= 6
  );
}

/** @param {any[]} rows */
function table(rows) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
  const cells = (/** @type {any} */ row) =>
    names.map((name) => element("td", {}, Object.hasOwn(row, name) ? scalar(row[name]) : null));
  return element(
    "table",
    { className: "records" },
    element("thead", {}, head),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells(row)))),
  );
}
