// A JSON schema that was typed: is it one? Here is told at once what is wrong for certain; the server knows the rest.

const TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"];

const text = { type: "string" };
const all = (properties) => ({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
const thing = all({ name: text, color: text, place: text });
export const EXAMPLE = all({ description: text, objects: { type: "array", items: thing } });

/** What it says, or what is wrong with it; neither where there is no text. @param {string} typed */
export function readSchema(typed) {
	if (!typed.trim()) return { schema: null, wrong: "" };
	try {
		const schema = JSON.parse(typed);
		const wrong = check(schema, "the schema") || (Object.keys(schema).length ? "" : "The schema says nothing.");
		return { schema: wrong ? null : schema, wrong };
	} catch (error) {
		const at = /position (\d+)/.exec(String(error));
		const line = at ? `: look at line ${typed.slice(0, Number(at[1])).split("\n").length}` : "";
		return { schema: null, wrong: `This is no JSON yet${line}.` };
	}
}

/** @param {any} schema @param {string} where @returns {string} */
function check(schema, where) {
	if (!isObject(schema)) return `Expected an object, { … }, as ${where}.`;
	const unknown = [schema.type ?? []].flat().find((type) => !TYPES.includes(type));
	if (unknown !== undefined) return `The type of ${where} is ${JSON.stringify(unknown)}: there is ${TYPES.join(", ")}.`;
	const { properties = {}, required = [] } = schema;
	if (!isObject(properties)) return `“properties” of ${where} must be an object.`;
	if (!Array.isArray(required)) return `“required” of ${where} must be a list.`;
	const missing = schema.properties && required.find((name) => !(name in properties));
	if (missing !== undefined) return `“${missing}” is required in ${where}, and is none of its properties.`;
	const parts = Object.entries(properties).map(([name, inner]) => [inner, `“${name}”`]);
	if (isObject(schema.items)) parts.push([schema.items, `the items of ${where}`]);
	return parts.map(([inner, name]) => check(inner, name)).find(Boolean) ?? "";
}

/** @param {unknown} value */
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
