// Starts a server that ended again, but not for ever.
import {
  CloseAction,
  type CloseHandlerResult,
  ErrorAction,
  type ErrorHandler,
  type ErrorHandlerResult,
} from "vscode-languageclient/node";

const CRASHES = 5;
const WITHIN_MS = 3 * 60_000;

/** Gives up after five ends within three minutes. */
export class Restarts implements ErrorHandler {
  private readonly ends: number[] = [];

  /** Whether the server that ended last is being started again. */
  trying = false;

  /** One of the two is called whenever the server ended. */
  constructor(
    private readonly restarting: () => void,
    private readonly gaveUp: () => void,
  ) {}

  /** What cannot be read or written once is no reason to end the server. */
  error(): ErrorHandlerResult {
    return { action: ErrorAction.Continue, handled: true };
  }

  /** The server ended without being asked to. */
  closed(): CloseHandlerResult {
    const now = Date.now();
    this.ends.push(now);
    const recent = this.ends.filter((time) => now - time < WITHIN_MS).length;
    this.trying = recent < CRASHES;
    if (this.trying) {
      this.restarting();
      return { action: CloseAction.Restart, handled: true };
    }
    this.gaveUp();
    return { action: CloseAction.DoNotRestart, handled: true };
  }
}
