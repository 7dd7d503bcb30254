// The status bar item.
import * as vscode from "vscode";
import type { LanguageClient } from "vscode-languageclient/node";

/** Params of `snowcoder/status` (docs/protocol.md). */
interface Status {
  state: "idle" | "loading" | "working" | "paused" | "error";
  reason?: string | null;
}

const ICONS: Record<Status["state"], string> = {
  idle: "$(check)",
  loading: "$(loading~spin)",
  working: "$(sync~spin)",
  paused: "$(debug-pause)",
  error: "$(error)",
};

/** Shows what the server says about itself. */
export class StatusItem implements vscode.Disposable {
  private readonly item = vscode.window.createStatusBarItem("snowcoder.status", vscode.StatusBarAlignment.Right);
  private state: Status["state"] = "loading";

  constructor() {
    this.item.name = "SnowCoder";
    this.item.command = "snowcoder.menu";
    this.show({ state: "loading" });
    this.item.show();
  }

  /** Whether the user paused suggestions. */
  get paused(): boolean {
    return this.state === "paused";
  }

  /** Follow one server; call it before the server starts. */
  follow(client: LanguageClient): void {
    client.onNotification("snowcoder/status", (status: Status) => this.show(status));
  }

  /** Show a state and the reason for it. */
  show(status: Status): void {
    this.state = status.state;
    // Commands and the walkthrough ask for it; an error is no state to pause in.
    void vscode.commands.executeCommand("setContext", "snowcoder.state", status.state === "error" ? null : status.state);
    this.item.text = `${ICONS[status.state] ?? "$(question)"} SnowCoder`;
    this.item.tooltip = status.reason ?? `SnowCoder: ${status.state}`;
  }

  dispose(): void {
    this.item.dispose();
  }
}
