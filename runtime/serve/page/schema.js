// A JSON schema that was typed: is it one? The server knows exactly; here is told at once what is wrong for certain.

const TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"];
const SAYING = ["type", "properties", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "items", "required"];

export const EXAMPLE = {
  type: "object",
  properties: {
    description: { type: "string" },
    objects: {
      type: "array",
      items: {
        type: "object",
        properties: { name: { type: "string" }, color: { type: "string" }, place: { type: "string" } },
        required: ["name", "color", "place"],
      },
    },
  },
  required: ["description", "objects"],
};

/**
 * @param {string} text
 * @returns {{schema: object | null, wrong: string}} neither where there is no text
 */
export function readSchema(text) {
  if (!text.trim()) return { schema: null, wrong: "" };
  let schema;
  try {
    schema = JSON.parse(text);
  } catch (error) {
    return { schema: null, wrong: `This is no JSON yet${place(text, error)}.` };
  }
  const wrong = check(schema, "the schema");
  if (wrong) return { schema: null, wrong };
  if (!SAYING.some((name) => name in schema)) return { schema: null, wrong: "The schema says nothing: it has no type." };
  return { schema, wrong: "" };
}

/**
 * Where it stops being JSON, if the browser says so.
 * @param {string} text
 * @param {unknown} error
 */
function place(text, error) {
  const at = /position (\d+)/.exec(String(error));
  return at ? `: look at line ${text.slice(0, Number(at[1])).split("\n").length}` : "";
}

/**
 * @param {any} schema
 * @param {string} where
 * @returns {string}
 */
function check(schema, where) {
  if (typeof schema === "boolean") return "";
  if (schema === null || typeof schema !== "object" || Array.isArray(schema)) return `${cap(where)} must be an object, { … }.`;
  for (const type of [schema.type ?? []].flat()) {
    if (!TYPES.includes(type)) return `${cap(where)} has the type ${JSON.stringify(type)}: there is ${TYPES.join(", ")}.`;
  }
  const { properties = {}, required = [] } = schema;
  if (properties === null || typeof properties !== "object" || Array.isArray(properties)) return `“properties” of ${where} must be an object.`;
  if (!Array.isArray(required)) return `“required” of ${where} must be a list.`;
  const missing = required.find((name) => !(name in properties));
  if (missing !== undefined && schema.properties) return `${cap(where)} requires “${missing}”, which its properties lack.`;
  for (const [name, inner] of Object.entries(properties)) {
    const wrong = check(inner, `“${name}”`);
    if (wrong) return wrong;
  }
  return schema.items === undefined ? "" : check(schema.items, `the items of ${where}`);
}

/** @param {string} text */
const cap = (text) => text[0].toUpperCase() + text.slice(1);
