// Where the server is: what the setting says, else `snowcoder` on the path, else the one that this
// extension installed.
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import * as path from "node:path";
import * as vscode from "vscode";

import { installed } from "./install";

/** Command and arguments that start the server; undefined if there is none on this machine. */
export async function findServer(storage: string): Promise<string[] | undefined> {
  const configured = vscode.workspace.getConfiguration("snowcoder").get<string[]>("command", []);
  if (configured.length > 0) {
    return configured;
  }
  const program = await onPath("snowcoder");
  if (program !== undefined) {
    return [program, "serve"];
  }
  const python = await installed(storage);
  // Isolated: a project with a package named like one of the server's must not be imported.
  return python === undefined ? undefined : [python, "-I", "-m", "lsp_server", "serve"];
}

async function onPath(name: string): Promise<string | undefined> {
  const file = process.platform === "win32" ? `${name}.exe` : name;
  for (const folder of (process.env.PATH ?? "").split(path.delimiter)) {
    // A relative entry would run what a project brings.
    const candidate = path.join(folder, file);
    if (path.isAbsolute(folder) && (await isExecutable(candidate))) {
      return candidate;
    }
  }
  return undefined;
}

async function isExecutable(file: string): Promise<boolean> {
  return access(file, constants.X_OK).then(
    () => true,
    () => false,
  );
}
