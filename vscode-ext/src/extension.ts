// Lifecycle only: finds or installs the language server, starts it, restarts it and stops it.
// Suggestions come through the client library's own registration for
// textDocument/inlineCompletion, settings through its answers to workspace/configuration.
import * as vscode from "vscode";
import type { LanguageClientOptions } from "vscode-languageclient/node";

import { Ahead } from "./ahead";
import { Attention } from "./attention";
import { Client } from "./client";
import { Feedback } from "./feedback";
import { install } from "./install";
import { showMenu, showWhy } from "./menu";
import { Restarts } from "./restarts";
import { findServer } from "./server";
import { StatusItem } from "./status";

let extension: Extension | undefined;

/** Start the server that the user configured, has, or installs now. */
export async function activate(context: vscode.ExtensionContext): Promise<void> {
  extension = new Extension(context);
  context.subscriptions.push(extension);
  await extension.start();
}

/** Stop the server; VS Code waits for it when it closes. */
export async function deactivate(): Promise<void> {
  await extension?.stop();
}

class Extension implements vscode.Disposable {
  private client: Client | undefined;
  private readonly restarts = new Restarts();
  private readonly status = new StatusItem();
  private readonly log = vscode.window.createOutputChannel("SnowCoder", { log: true });
  private readonly feedback = new Feedback(() => this.client);
  private readonly attention = new Attention(() => this.client);
  private readonly storage: string;
  private readonly requirement: string;
  private readonly subscriptions: vscode.Disposable;

  constructor({ extension, globalStorageUri }: vscode.ExtensionContext) {
    const { version } = extension.packageJSON as { version: string };
    this.requirement = `snowcoder==${version}`;
    // With its version, so that another version of the extension gets a server of its own.
    this.storage = vscode.Uri.joinPath(globalStorageUri, `server-${version}`).fsPath;
    const command = (name: string, run: () => unknown): vscode.Disposable =>
      vscode.commands.registerCommand(`snowcoder.${name}`, run);
    this.subscriptions = vscode.Disposable.from(
      this.status,
      this.log,
      this.feedback,
      this.attention,
      command("install", () => this.install()),
      command("restart", () => this.restart()),
      command("openSettings", () => vscode.commands.executeCommand("workbench.action.openSettings", "snowcoder.command")),
      command("showLog", () => this.log.show()),
      command("showWhy", () => showWhy(this.client)),
      command("menu", () => showMenu(this.client?.isRunning() ?? false, this.status.paused)),
      vscode.workspace.onDidChangeConfiguration(async (change) => {
        // The server takes all other settings while it runs.
        if (change.affectsConfiguration("snowcoder.command")) {
          await this.restart();
        }
      }),
    );
  }

  dispose(): void {
    this.subscriptions.dispose();
  }

  async start(): Promise<void> {
    const found = await findServer(this.storage);
    if (found === undefined) {
      this.report("the server is not on this machine yet.", { Install: "snowcoder.install" });
      return;
    }
    this.restarts.forget();
    await this.launch(found);
  }

  private async launch(command: string[]): Promise<void> {
    this.log.info(`starting ${command.join(" ")}`);
    this.status.show({ state: "loading" });
    const options: LanguageClientOptions = {
      documentSelector: [
        { scheme: "file", language: "python" },
        { scheme: "untitled", language: "python" },
      ],
      outputChannel: this.log,
      middleware: this.feedback.middleware(new Ahead()),
    };
    const client: Client = new Client(command, options, () => this.ended(client, command));
    this.client = client;
    this.status.follow(client);
    try {
      await client.start();
      this.attention.tellVisibility();
    } catch (error) {
      this.log.error(String(error));
      if (client.spawned) {
        this.ended(client, command);
      } else {
        this.client = undefined;
        this.report(`cannot start ${command[0]}.`, {
          "Open Settings": "snowcoder.openSettings",
          "Show the Log": "snowcoder.showLog",
        });
      }
    }
  }

  private ended(client: Client, command: string[]): void {
    if (this.client !== client) {
      return; // asked to, or noted before
    }
    this.client = undefined;
    if (this.restarts.again()) {
      void this.launch(command);
      return;
    }
    this.report("the server ended five times within three minutes and is not started again.", {
      Restart: "snowcoder.restart",
      "Show the Log": "snowcoder.showLog",
    });
  }

  async stop(): Promise<void> {
    const { client } = this;
    this.client = undefined;
    if (client?.isRunning()) {
      await client.stop();
    } else {
      client?.serverProcess?.kill(); // it is starting: there is nobody yet to ask
    }
  }

  private async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  private async install(): Promise<void> {
    const configured = vscode.workspace.getConfiguration("snowcoder").get<string>("package", "");
    const requirement = configured || this.requirement;
    const options = {
      location: vscode.ProgressLocation.Notification,
      title: "Installing SnowCoder",
      cancellable: true,
    };
    try {
      await vscode.window.withProgress(options, (progress, token) =>
        install(this.storage, requirement, this.log, (message) => progress.report({ message }), token),
      );
    } catch (error) {
      this.report(error instanceof Error ? error.message : String(error), {
        "Try Again": "snowcoder.install",
        "Show the Log": "snowcoder.showLog",
      });
      return;
    }
    await this.restart();
  }

  /** Say what is wrong in the status bar and, with what can be done, in a message. */
  private report(reason: string, actions: Record<string, string>): void {
    this.status.show({ state: "error", reason });
    void vscode.window.showErrorMessage(`SnowCoder: ${reason}`, ...Object.keys(actions)).then((chosen) => {
      if (chosen !== undefined) {
        void vscode.commands.executeCommand(actions[chosen]);
      }
    });
  }
}
