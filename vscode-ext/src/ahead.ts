// Asks for a suggestion as soon as a key was typed. VS Code lets 50 ms pass before it asks; by
// then the server is at work on the answer, or has it.
import * as vscode from "vscode";
import type { Middleware } from "vscode-languageclient/node";

/** One character, or a new line with its indentation. */
const KEY = /^(.|\r?\n[ \t]*)$/u;
/** Two that the editor inserts around the cursor when the first is typed. */
const PAIR = /^(\(\)|\[\]|\{\}|""|'')$/;

type Ask = vscode.InlineCompletionItemProvider["provideInlineCompletionItems"];

interface Asked {
  readonly document: vscode.TextDocument;
  readonly version: number;
  readonly position: vscode.Position;
  readonly answer: ReturnType<Ask>;
  readonly cancellation: vscode.CancellationTokenSource;
}

/** What is asked ahead of the editor; there is one for each run of the server. */
export class Ahead {
  private ask: Ask | undefined;
  private asked: Asked | undefined;

  /** Tells the server of a change, and asks what comes after it. */
  readonly didChange: NonNullable<Middleware["didChange"]> = async (event, next) => {
    await next(event);
    this.typed(event);
  };

  /** The same as `next`, with the answer to what was asked ahead if that is the question. */
  around(next: Ask): Ask {
    return (document, position, context, token) => {
      const { asked } = this;
      this.asked = undefined;
      const automatic = context.triggerKind === vscode.InlineCompletionTriggerKind.Automatic;
      const plain = automatic && context.selectedCompletionInfo === undefined;
      // While the list of completions is open, the question depends on what is chosen there.
      this.ask = context.selectedCompletionInfo === undefined ? next : undefined;
      if (
        asked !== undefined &&
        plain &&
        asked.document === document &&
        asked.version === document.version &&
        asked.position.isEqual(position)
      ) {
        token.onCancellationRequested(() => asked.cancellation.cancel());
        return asked.answer;
      }
      asked?.cancellation.cancel();
      return next(document, position, context, token);
    };
  }

  private typed({ document, contentChanges, reason }: vscode.TextDocumentChangeEvent): void {
    this.asked?.cancellation.cancel();
    this.asked = undefined;
    if (this.ask === undefined || contentChanges.length !== 1 || reason !== undefined) {
      return;
    }
    const [{ text, rangeLength, rangeOffset }] = contentChanges;
    const pair = PAIR.test(text);
    if (rangeLength > 0 || !(pair || KEY.test(text)) || vscode.window.activeTextEditor?.document !== document) {
      return;
    }
    const position = document.positionAt(rangeOffset + (pair ? 1 : text.length));
    const context = {
      triggerKind: vscode.InlineCompletionTriggerKind.Automatic,
      selectedCompletionInfo: undefined,
    };
    const cancellation = new vscode.CancellationTokenSource();
    const answer = this.ask(document, position, context, cancellation.token);
    this.asked = { document, version: document.version, position, answer, cancellation };
  }
}
