// How often a server that ended is started again.
const CRASHES = 5;
const WITHIN_MS = 3 * 60_000;

/** Gives up after five ends within three minutes. */
export class Restarts {
  private ends: number[] = [];

  /** Note that the server ended; whether to start it again. */
  again(): boolean {
    const now = Date.now();
    this.ends = [...this.ends.filter((time) => now - time < WITHIN_MS), now];
    return this.ends.length < CRASHES;
  }

  /** The user asked for a new start. */
  forget(): void {
    this.ends = [];
  }
}
