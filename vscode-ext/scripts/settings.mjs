// Writes the server's settings (docs/settings.schema.json) into the `contributes` of
// package.json, so that VS Code offers exactly what the server reads. tests/test_vscode_settings.py
// fails when the two differ.
import { readFileSync, writeFileSync } from "node:fs";

const schema = JSON.parse(readFileSync(new URL("../../docs/settings.schema.json", import.meta.url), "utf8"));
const manifestFile = new URL("../package.json", import.meta.url);
const manifest = JSON.parse(readFileSync(manifestFile, "utf8"));
const configuration = manifest.contributes.configuration;

/** The setting without references and titles, which VS Code does not read. */
function contributed({ $ref, title, ...rest }) {
  if ($ref !== undefined) {
    const { title: _, ...definition } = schema.$defs[$ref.split("/").at(-1)];
    return { ...definition, ...rest };
  }
  return rest;
}

configuration.properties = {
  "snowcoder.command": configuration.properties["snowcoder.command"],
  "snowcoder.package": configuration.properties["snowcoder.package"],
  ...Object.fromEntries(
    Object.entries(schema.properties).map(([name, value]) => [`snowcoder.${name}`, contributed(value)]),
  ),
};
writeFileSync(manifestFile, `${JSON.stringify(manifest, null, 2)}\n`);
