// JSON to look at: objects as names and values, lists of equal objects as tables.

import { box, element } from "./dom.js";

export function tree(value) {
	if (isScalar(value)) return scalar(value);
	if (Array.isArray(value)) return isTable(value) ? table(value) : list(value);
	const pairs = Object.entries(/** @type {object} */ (value)).map(([name, inner]) =>
		box(isScalar(inner) ? "pair" : "pair deep", element("dt", {}, name), element("dd", {}, tree(inner))),
	);
	return pairs.length ? element("dl", { className: "tree" }, ...pairs) : scalar(null);
}

const isScalar = (value) => value === null || typeof value !== "object";

const scalar = (value) => element("span", { className: value === null ? "null" : typeof value }, String(value));

function list(values) {
	const flat = values.every((value) => isScalar(value) && String(value).length < 40);
	return element("ul", { className: flat ? "tags" : "items" }, ...values.map((value) => element("li", {}, tree(value))));
}

/** Whether all are objects of the same few plain values. */
function isTable(values) {
	return (
		values.length > 0 &&
		values.every((value) => !isScalar(value) && !Array.isArray(value) && Object.values(value).every(isScalar)) &&
		namesOf(values).length <= 6
	);
}

const namesOf = (rows) => [...new Set(rows.flatMap(Object.keys))];

function table(rows) {
	const names = namesOf(rows);
	const line = (cells) => element("tr", {}, ...cells);
	const head = line(names.map((name) => element("th", { scope: "col" }, name)));
	const body = rows.map((row) => line(names.map((name) => element("td", {}, Object.hasOwn(row, name) && scalar(row[name])))));
	return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
}
