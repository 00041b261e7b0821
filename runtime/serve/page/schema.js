// A JSON schema that was typed: what is wrong for certain is told at once; the server knows the rest.

const TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"];

const text = { type: "string" };
const all = (properties) => ({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
const thing = all({ name: text, color: text, place: text });
export const EXAMPLE = all({ description: text, objects: { type: "array", items: thing } });

/** What it says, or what is wrong with it; neither where there is no text. */
export function readSchema(typed) {
	if (!typed.trim()) return { schema: null, wrong: "" };
	try {
		const schema = JSON.parse(typed);
		const wrong = check(schema) || (Object.keys(schema).length ? "" : "The schema says nothing.");
		return { schema: wrong ? null : schema, wrong };
	} catch (error) {
		const at = /position (\d+)/.exec(String(error));
		const line = at ? `: look at line ${typed.slice(0, Number(at[1])).split("\n").length}` : "";
		return { schema: null, wrong: `This is no JSON yet${line}.` };
	}
}

function check(schema) {
	if (schema === null || typeof schema !== "object" || Array.isArray(schema)) return "A schema is an object, { … }.";
	const unknown = [schema.type ?? []].flat().find((type) => !TYPES.includes(type));
	if (unknown !== undefined) return `${JSON.stringify(unknown)} is no type: there is ${TYPES.join(", ")}.`;
	const { properties, required = [] } = schema;
	const missing = properties && [required].flat().find((name) => !Object.hasOwn(properties, name));
	return missing === undefined ? "" : `“${missing}” is required, and is none of the properties.`;
}
