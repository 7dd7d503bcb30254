// Tells the server where the user rests and whether suggestions can be seen at all, so that it
// reads ahead in time and does nothing for nobody.
import * as vscode from "vscode";
import type { LanguageClient } from "vscode-languageclient/node";

const REST_MS = 300;

/** Follows the cursor and the editor's own switch for inline suggestions. */
export class Attention implements vscode.Disposable {
  private timer: NodeJS.Timeout | undefined;
  private readonly subscriptions: vscode.Disposable[];

  /** `client` gives the server that runs at the moment. */
  constructor(private readonly client: () => LanguageClient | undefined) {
    this.subscriptions = [
      vscode.window.onDidChangeTextEditorSelection(({ textEditor }) => this.moved(textEditor)),
      vscode.workspace.onDidChangeConfiguration((change) => {
        if (change.affectsConfiguration("editor.inlineSuggest.enabled")) {
          this.tellVisibility();
        }
      }),
    ];
  }

  /** Say whether the editor shows inline suggestions; a server that starts does not know. */
  tellVisibility(): void {
    const visible = vscode.workspace.getConfiguration("editor").get<boolean>("inlineSuggest.enabled", true);
    this.tell("snowcoder/didChangeVisibility", { visible });
  }

  dispose(): void {
    clearTimeout(this.timer);
    vscode.Disposable.from(...this.subscriptions).dispose();
  }

  private moved({ document, selections }: vscode.TextEditor): void {
    clearTimeout(this.timer);
    if (document.languageId !== "python" || selections.length !== 1 || !selections[0].isEmpty) {
      return;
    }
    const { line, character } = selections[0].active;
    this.timer = setTimeout(() => {
      this.tell("snowcoder/didRestCursor", {
        textDocument: { uri: document.uri.toString() },
        position: { line, character },
      });
    }, REST_MS);
  }

  private tell(method: string, params: object): void {
    const client = this.client();
    if (client?.isRunning()) {
      void client.sendNotification(method, params);
    }
  }
}
