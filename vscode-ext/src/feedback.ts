// What became of a suggestion. VS Code's stable interface does not say what is on screen, so it is
// inferred: a suggestion was shown if it is still the current one a moment after it was given, or
// if the user did something with it; text inserted at the cursor that continues it was taken.
import * as vscode from "vscode";
import type { LanguageClient, Middleware } from "vscode-languageclient/node";

import type { Ahead } from "./ahead";

const SHOWN_AFTER_MS = 750;
const REMEMBERED = 100;
const ACCEPT = "snowcoder.accept";
/** What the editor itself inserts when one key is typed. */
const PAIRS = ["()", "[]", "{}", '""', "''", "``"];

interface Current {
  readonly uri: string;
  readonly items: readonly vscode.InlineCompletionItem[];
  /** Whether these are all that there are, and not the likeliest alone. */
  readonly all: boolean;
  /** Index of the item on screen. */
  chosen: number;
  /** Offset where the suggestion begins. */
  readonly start: number;
  /** UTF-16 units of the item that are in the document by now. */
  taken: number;
  timer: NodeJS.Timeout | undefined;
}

/** Follows one suggestion at a time, and tells the server. */
export class Feedback implements vscode.Disposable {
  private current: Current | undefined;
  private taking = false;
  /** Ids of the last items that the server was told of as shown: it may go on with one of them. */
  private readonly shown = new Set<unknown>();
  /** How far the user went through the items that are being asked for. */
  private ahead = 0;
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
      vscode.commands.registerCommand("snowcoder.next", () => this.cycle("showNext", 1)),
      vscode.commands.registerCommand("snowcoder.previous", () => this.cycle("showPrevious", -1)),
      vscode.commands.registerCommand("snowcoder.dismiss", () => this.dismiss()),
    ];
  }

  /** Hooks for a client: every suggestion and every acceptance passes here. */
  middleware(ahead: Ahead): Middleware {
    return {
      didChange: ahead.didChange,
      provideInlineCompletionItems: async (document, position, context, token, next) => {
        const found = await ahead.around(next)(document, position, context, token);
        const items = Array.isArray(found) ? found : (found?.items ?? []);
        if (!token.isCancellationRequested && items.length > 0) {
          const all = context.triggerKind === vscode.InlineCompletionTriggerKind.Invoke;
          this.offered(document, position, items, all);
        }
        return found;
      },
      executeCommand: (command, args, next) => {
        if (command === ACCEPT) {
          const item = this.current?.items.find((one) => id(one) === args[0]);
          if (item !== undefined) {
            this.show(item);
          }
          this.forget();
        }
        return next(command, args);
      },
    };
  }

  dispose(): void {
    this.forget();
    vscode.Disposable.from(...this.subscriptions).dispose();
  }

  private offered(
    document: vscode.TextDocument,
    position: vscode.Position,
    items: vscode.InlineCompletionItem[],
    all: boolean,
  ): void {
    const { ahead } = this;
    this.forget();
    const start = document.offsetAt(items[0].range?.start ?? position);
    const uri = document.uri.toString();
    this.current = { uri, items, all, chosen: 0, start, taken: 0, timer: undefined };
    if (all) {
      choose(this.current, ahead);
    }
    this.showLater(this.current);
  }

  private forget(): void {
    clearTimeout(this.current?.timer);
    this.current = undefined;
    this.ahead = 0;
  }

  private showLater(current: Current): void {
    clearTimeout(current.timer);
    current.timer = setTimeout(() => this.show(chosen(current)), SHOWN_AFTER_MS);
  }

  private show(item: vscode.InlineCompletionItem): void {
    if (this.shown.has(id(item))) {
      return;
    }
    this.shown.add(id(item));
    if (this.shown.size > REMEMBERED) {
      this.shown.delete(this.shown.values().next().value);
    }
    this.tell("textDocument/didShowCompletion", item);
  }

  private changed({ document, contentChanges, reason }: vscode.TextDocumentChangeEvent): void {
    const current = this.current;
    if (current === undefined || document.uri.toString() !== current.uri || contentChanges.length === 0) {
      return;
    }
    const [change] = contentChanges;
    const inserted = change.text.replaceAll("\r\n", "\n");
    const reaches = text(chosen(current)).slice(0, current.taken) + inserted;
    if (!text(chosen(current)).startsWith(reaches)) {
      // The editor has ways to the other items that do not pass here.
      current.chosen = Math.max(current.items.findIndex((item) => text(item).startsWith(reaches)), 0);
    }
    const rest = text(chosen(current)).slice(current.taken);
    const continues =
      contentChanges.length === 1 &&
      reason === undefined &&
      inserted.length > 0 &&
      change.rangeOffset === reached(document, current, current.taken) &&
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
      const item = chosen(current);
      this.show(item);
      this.tell("textDocument/didPartiallyAcceptCompletion", item, { acceptedLength: current.taken });
    }
  }

  private moved(document: vscode.TextDocument, selections: readonly vscode.Selection[]): void {
    const current = this.current;
    if (current === undefined || document.uri.toString() !== current.uri) {
      return;
    }
    const cursor = document.offsetAt(selections[0].active);
    const ends = [current.taken, text(chosen(current)).length];
    if (!ends.some((length) => cursor === reached(document, current, length))) {
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

  private async cycle(action: "showNext" | "showPrevious", by: number): Promise<void> {
    // The editor asks for all of them first, unless it has.
    if (this.current?.all) {
      choose(this.current, by);
      this.showLater(this.current);
    } else {
      this.ahead += by;
    }
    await vscode.commands.executeCommand(`editor.action.inlineSuggest.${action}`);
  }

  private async dismiss(): Promise<void> {
    if (this.current !== undefined) {
      const item = chosen(this.current);
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

/** Go `by` items further, round and round. */
function choose(current: Current, by: number): void {
  const count = current.items.length;
  current.chosen = (((current.chosen + by) % count) + count) % count;
}

function chosen(current: Current): vscode.InlineCompletionItem {
  return current.items[current.chosen];
}

/** Offset in the document where the first `length` units of the suggestion end. */
function reached(document: vscode.TextDocument, current: Current, length: number): number {
  const before = text(chosen(current)).slice(0, length);
  const breaks = document.eol === vscode.EndOfLine.CRLF ? before.split("\n").length - 1 : 0;
  return current.start + before.length + breaks;
}

function text(item: vscode.InlineCompletionItem): string {
  return typeof item.insertText === "string" ? item.insertText : item.insertText.value;
}

function id(item: vscode.InlineCompletionItem): unknown {
  return item.command?.arguments?.[0];
}
