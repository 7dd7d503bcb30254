// What became of a suggestion. VS Code's stable interface does not say what is on screen, so it is
// inferred: a suggestion was shown if it is still the current one a moment after it was given, or
// if the user did something with it; text inserted at the cursor that continues it was taken.
import * as vscode from "vscode";
import type { LanguageClient, Middleware } from "vscode-languageclient/node";

const SHOWN_AFTER_MS = 750;
const ACCEPT = "snowcoder.accept";
/** What the editor itself inserts when one key is typed. */
const PAIRS = ["()", "[]", "{}", '""', "''", "``"];

interface Current {
  readonly uri: string;
  readonly items: readonly vscode.InlineCompletionItem[];
  /** Offset where the suggestion begins. */
  readonly start: number;
  /** UTF-16 units of it that are in the document by now. */
  taken: number;
  shown: boolean;
  timer: NodeJS.Timeout | undefined;
}

/** Follows one suggestion at a time, and tells the server. */
export class Feedback implements vscode.Disposable {
  private current: Current | undefined;
  private taking = false;
  private readonly subscriptions: vscode.Disposable[];

  /** `client` gives the server that runs at the moment. */
  constructor(private readonly client: () => LanguageClient | undefined) {
    this.subscriptions = [
      vscode.workspace.onDidChangeTextDocument((event) => this.changed(event)),
      vscode.window.onDidChangeTextEditorSelection(({ textEditor, selections }) => {
        this.moved(textEditor.document, selections);
      }),
      vscode.window.onDidChangeActiveTextEditor(() => this.forget()),
      vscode.commands.registerCommand("snowcoder.acceptWord", () => this.take("acceptNextWord")),
      vscode.commands.registerCommand("snowcoder.acceptLine", () => this.take("acceptNextLine")),
      vscode.commands.registerCommand("snowcoder.dismiss", () => this.dismiss()),
    ];
  }

  /** Hooks for the client: every suggestion and every acceptance passes here. */
  readonly middleware: Middleware = {
    provideInlineCompletionItems: async (document, position, context, token, next) => {
      const found = await next(document, position, context, token);
      const items = Array.isArray(found) ? found : (found?.items ?? []);
      if (!token.isCancellationRequested && items.length > 0) {
        this.offered(document, position, items);
      }
      return found;
    },
    executeCommand: (command, args, next) => {
      if (command === ACCEPT) {
        const item = this.current?.items.find((one) => one.command?.arguments?.[0] === args[0]);
        this.show(item);
        this.forget();
      }
      return next(command, args);
    },
  };

  dispose(): void {
    this.forget();
    vscode.Disposable.from(...this.subscriptions).dispose();
  }

  private offered(document: vscode.TextDocument, position: vscode.Position, items: vscode.InlineCompletionItem[]): void {
    const before = this.current;
    this.forget();
    const start = document.offsetAt(items[0].range?.start ?? position);
    // While the user types along, the server goes on with the same suggestion.
    const same = before !== undefined && id(before.items[0]) === id(items[0]);
    const uri = document.uri.toString();
    this.current = { uri, items, start, taken: 0, shown: same && before.shown, timer: undefined };
    this.current.timer = setTimeout(() => this.show(this.current?.items[0]), SHOWN_AFTER_MS);
  }

  private forget(): void {
    clearTimeout(this.current?.timer);
    this.current = undefined;
  }

  private show(item: vscode.InlineCompletionItem | undefined): void {
    if (item === undefined || this.current === undefined || this.current.shown) {
      return;
    }
    this.current.shown = true;
    this.tell("textDocument/didShowCompletion", item);
  }

  private changed({ document, contentChanges, reason }: vscode.TextDocumentChangeEvent): void {
    const current = this.current;
    if (current === undefined || document.uri.toString() !== current.uri || contentChanges.length === 0) {
      return;
    }
    const [change] = contentChanges;
    const rest = text(current.items[0]).slice(current.taken);
    const inserted = change.text.replaceAll("\r\n", "\n");
    const continues =
      contentChanges.length === 1 &&
      reason === undefined &&
      inserted.length > 0 &&
      change.rangeOffset === current.start + current.taken &&
      rest.startsWith(inserted);
    if (inserted === rest && continues) {
      return; // taken whole: the command that goes with it comes next
    }
    if (!continues) {
      this.forget();
      return;
    }
    current.taken += inserted.length;
    if (this.taking || (inserted.length > 1 && !PAIRS.includes(inserted))) {
      this.show(current.items[0]);
      this.tell("textDocument/didPartiallyAcceptCompletion", current.items[0], { acceptedLength: current.taken });
    }
  }

  private moved(document: vscode.TextDocument, selections: readonly vscode.Selection[]): void {
    if (this.current === undefined || document.uri.toString() !== this.current.uri) {
      return;
    }
    const cursor = document.offsetAt(selections[0].active);
    const whole = this.current.start + text(this.current.items[0]).length;
    if (cursor !== this.current.start + this.current.taken && cursor !== whole) {
      this.forget();
    }
  }

  private async take(action: "acceptNextWord" | "acceptNextLine"): Promise<void> {
    this.taking = true;
    try {
      await vscode.commands.executeCommand(`editor.action.inlineSuggest.${action}`);
    } finally {
      this.taking = false;
    }
  }

  private async dismiss(): Promise<void> {
    const item = this.current?.items[0];
    if (item !== undefined) {
      this.show(item);
      this.tell("textDocument/didDismissCompletion", item);
      this.forget();
    }
    await vscode.commands.executeCommand("editor.action.inlineSuggest.hide");
  }

  private tell(method: string, item: vscode.InlineCompletionItem, more: object = {}): void {
    const client = this.client();
    if (client?.isRunning()) {
      const { command } = item;
      void client.sendNotification(method, { item: { insertText: text(item), command }, ...more });
    }
  }
}

function text(item: vscode.InlineCompletionItem): string {
  return typeof item.insertText === "string" ? item.insertText : item.insertText.value;
}

function id(item: vscode.InlineCompletionItem): unknown {
  return item.command?.arguments?.[0];
}
