// The client library's client, without what it says to the user by itself.
import { CloseAction, ErrorAction, LanguageClient, type LanguageClientOptions } from "vscode-languageclient/node";
import type { MessageTransports } from "vscode-languageclient/node";

/** One run of the server; a server that ended gets another client. */
export class Client extends LanguageClient {
  /** Whether the command could be started at all. */
  spawned = false;

  /** `ended` is called when the server ended without being asked to, maybe more than once. */
  constructor([command, ...args]: string[], options: LanguageClientOptions, ended: () => void) {
    super(
      "snowcoder",
      "SnowCoder",
      { command, args },
      {
        ...options,
        initializationFailedHandler: () => false,
        errorHandler: {
          // What cannot be read or written once is no reason to end the server.
          error: () => ({ action: ErrorAction.Continue, handled: true }),
          // The library would start it again, but not one that ended while it started.
          closed: () => {
            ended();
            return { action: CloseAction.DoNotRestart, handled: true };
          },
        },
      },
    );
  }

  /** Failures are logged; the extension says once, and in words for users, what is wrong. */
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }

  protected override async createMessageTransports(encoding: string): Promise<MessageTransports> {
    const transports = await super.createMessageTransports(encoding);
    this.spawned = true;
    return transports;
  }
}
