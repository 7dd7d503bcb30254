// Lifecycle only: starts the language server, restarts it and stops it. Suggestions come through
// the client library's own registration for textDocument/inlineCompletion, settings through its
// answers to workspace/configuration.
import * as vscode from "vscode";
import { LanguageClient, type LanguageClientOptions, type ServerOptions } from "vscode-languageclient/node";

import { StatusItem } from "./status";

let client: LanguageClient | undefined;

/** Start the server that the user configured. */
export async function activate(context: vscode.ExtensionContext): Promise<void> {
  const status = new StatusItem();
  const output = vscode.window.createOutputChannel("SnowCoder", { log: true });
  const restart = async (): Promise<void> => {
    await deactivate();
    await start(status, output);
  };
  context.subscriptions.push(
    status,
    output,
    vscode.commands.registerCommand("snowcoder.restart", restart),
    vscode.commands.registerCommand("snowcoder.showLog", () => output.show()),
    vscode.commands.registerCommand("snowcoder.menu", () => menu(status)),
    vscode.workspace.onDidChangeConfiguration(async (change) => {
      // The server takes all other settings while it runs.
      if (change.affectsConfiguration("snowcoder.command")) {
        await restart();
      }
    }),
  );
  await start(status, output);
}

/** Stop the server; VS Code waits for it when it closes. */
export async function deactivate(): Promise<void> {
  const running = client;
  client = undefined;
  if (running?.isRunning()) {
    await running.stop();
  }
}

async function start(status: StatusItem, outputChannel: vscode.LogOutputChannel): Promise<void> {
  const [command, ...args] = vscode.workspace.getConfiguration("snowcoder").get<string[]>("command", []);
  if (command === undefined) {
    report(status, "the setting snowcoder.command is empty.");
    return;
  }
  const server: ServerOptions = { command, args };
  const options: LanguageClientOptions = {
    documentSelector: [
      { scheme: "file", language: "python" },
      { scheme: "untitled", language: "python" },
    ],
    outputChannel,
  };
  client = new LanguageClient("snowcoder", "SnowCoder", server, options);
  status.show({ state: "loading" });
  status.follow(client);
  try {
    await client.start();
  } catch (error) {
    report(status, `cannot start ${command}: ${String(error)}`);
  }
}

function report(status: StatusItem, reason: string): void {
  status.show({ state: "error", reason });
  void vscode.window.showErrorMessage(`SnowCoder: ${reason}`);
}

/** What a click on the status bar offers. */
async function menu(status: StatusItem): Promise<void> {
  const pause = status.paused
    ? { label: "Resume suggestions", command: "snowcoder.resume" }
    : { label: "Pause suggestions", command: "snowcoder.pause" };
  const chosen = await vscode.window.showQuickPick(
    [
      ...(client?.isRunning() ? [pause] : []),
      { label: "Restart the server", command: "snowcoder.restart" },
      { label: "Show the log", command: "snowcoder.showLog" },
    ],
    { placeHolder: "SnowCoder" },
  );
  if (chosen !== undefined) {
    await vscode.commands.executeCommand(chosen.command);
  }
}
