// What a click on the status bar offers, and why nothing was shown.
import * as vscode from "vscode";
import type { LanguageClient } from "vscode-languageclient/node";

const RECENT = 30;

/** One entry of `snowcoder.why` (docs/protocol.md). */
interface Decision {
  time: string | number;
  file: string;
  line: number;
  outcome: string;
  rule: string | null;
  detail: string | null;
}

/** Let the user choose among what makes sense at the moment. */
export async function showMenu(running: boolean, paused: boolean): Promise<void> {
  const pause = paused
    ? { label: "Resume suggestions", command: "snowcoder.resume" }
    : { label: "Pause suggestions", command: "snowcoder.pause" };
  const chosen = await vscode.window.showQuickPick(
    [
      ...(running ? [pause, { label: "Why was nothing shown?", command: "snowcoder.showWhy" }] : []),
      { label: "Restart the server", command: "snowcoder.restart" },
      { label: "Show the log", command: "snowcoder.showLog" },
    ],
    { placeHolder: "SnowCoder" },
  );
  if (chosen !== undefined) {
    await vscode.commands.executeCommand(chosen.command);
  }
}

/** The last decisions of the server, newest first. */
export async function showWhy(client: LanguageClient | undefined): Promise<void> {
  if (!client?.isRunning()) {
    return;
  }
  const decisions = await client.sendRequest<Decision[]>("workspace/executeCommand", {
    command: "snowcoder.why",
    arguments: [RECENT],
  });
  const items = decisions.reverse().map(({ file, line, outcome, rule, detail }) => ({
    label: rule === null ? outcome : `${outcome}: ${rule}`,
    description: `${file}:${line}`,
    detail: detail ?? undefined,
  }));
  await vscode.window.showQuickPick(items, { placeHolder: "What was decided, newest first" });
}
