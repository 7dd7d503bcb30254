// Lifecycle only: starts the language server and stops it. Suggestions come through the
// client library's own registration for textDocument/inlineCompletion.
import * as vscode from "vscode";
import { LanguageClient, type LanguageClientOptions, type ServerOptions } from "vscode-languageclient/node";

let client: LanguageClient | undefined;

/** Start the server that the user configured. */
export async function activate(context: vscode.ExtensionContext): Promise<void> {
  await start();
  context.subscriptions.push(
    vscode.workspace.onDidChangeConfiguration(async (change) => {
      if (change.affectsConfiguration("snowcoder")) {
        await deactivate();
        await start();
      }
    }),
  );
}

/** Stop the server; VS Code waits for it when it closes. */
export async function deactivate(): Promise<void> {
  const running = client;
  client = undefined;
  await running?.stop();
}

async function start(): Promise<void> {
  const [command, ...args] = vscode.workspace.getConfiguration("snowcoder").get<string[]>("command", []);
  if (command === undefined) {
    void vscode.window.showErrorMessage("SnowCoder: the setting snowcoder.command is empty.");
    return;
  }
  const server: ServerOptions = { command, args };
  const options: LanguageClientOptions = {
    documentSelector: [
      { scheme: "file", language: "python" },
      { scheme: "untitled", language: "python" },
    ],
  };
  client = new LanguageClient("snowcoder", "SnowCoder", server, options);
  try {
    await client.start();
  } catch (error) {
    void vscode.window.showErrorMessage(`SnowCoder: cannot start ${command}: ${String(error)}`);
  }
}
