// Renders openapi.json. Text is set as text, never as markup.
const place = document.getElementById("routes");

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function follow(api, schema) {
  if (!schema?.$ref) return schema ?? {};
  return schema.$ref.split("/").slice(1).reduce((at, key) => at?.[key], api) ?? {};
}

function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(kind).filter((one) => one !== "null").join(" | ");
  if (schema.type === "array") return `list of ${kind(schema.items) || "anything"}`;
  return schema.format ?? schema.type ?? "anything";
}

function table(api, schema) {
  const rows = Object.entries(follow(api, schema).properties ?? {}).map(([name, one]) =>
    element("tr", "", element("td", "", element("code", name)), element("td", kind(one)),
      element("td", one.description ?? "")));
  const head = element("tr", "", ...["Field", "Kind", ""].map((text) => element("th", text)));
  return element("table", "", element("thead", "", head), element("tbody", "", ...rows));
}

function route(api, path, method, told) {
  const summary = element("summary", "", element("span", method.toUpperCase()), element("code", path));
  summary.firstChild.className = "method";
  const made = element("details", "", summary, element("p", told.description ?? ""));
  for (const one of told.parameters ?? []) {
    made.append(element("p", `${one.name} (${one.in}): ${one.description ?? kind(one.schema)}`));
  }
  for (const [media, { schema }] of Object.entries(told.requestBody?.content ?? {})) {
    made.append(element("p", `Body, ${media}: ${kind(schema)}`), table(api, schema));
  }
  made.append(element("p", `Answers: ${Object.keys(told.responses ?? {}).join(", ")}`));
  return made;
}

try {
  const api = await (await fetch("/openapi.json")).json();
  place.textContent = "";
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, told] of Object.entries(methods)) {
      const group = told.tags?.[0] ?? "other";
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(route(api, path, method, told));
    }
  }
  for (const [group, routes] of groups) place.append(element("h2", group), ...routes);
  place.append(element("h2", "Forms"));
  for (const [name, schema] of Object.entries(api.components?.schemas ?? {})) {
    if (!schema.properties) continue;
    place.append(element("details", "", element("summary", name), table(api, schema)));
  }
} catch (error) {
  place.textContent = `openapi.json cannot be read: ${error}`;
}
