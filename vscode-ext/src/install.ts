// Installs the server into an environment of its own in the extension's storage.
import { spawn } from "node:child_process";
import { access, mkdir, rm, writeFile } from "node:fs/promises";
import * as path from "node:path";
import type { CancellationToken, LogOutputChannel } from "vscode";

const NEEDED = "3.11";
const CANDIDATES =
  process.platform === "win32"
    ? [["py", "-3"], ["python"]]
    : ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"].map((name) => [name]);
const USABLE = `import ensurepip, sys, venv; sys.exit(sys.version_info < (${NEEDED.replace(".", ", ")}))`;
const COMPLETE = "complete";

/** Interpreter of a finished installation in `folder`, or undefined. */
export async function installed(folder: string): Promise<string | undefined> {
  return access(path.join(folder, COMPLETE)).then(
    () => interpreter(folder),
    () => undefined,
  );
}

/**
 * Install `requirement`, anything that pip takes, into a fresh environment in `folder`.
 * Throws an Error with a sentence for the user; a half-made environment does not count.
 */
export async function install(
  folder: string,
  requirement: string,
  log: LogOutputChannel,
  report: (message: string) => void,
  token: CancellationToken,
): Promise<void> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(path.dirname(folder), { recursive: true });
  const run = (command: string[], line: (text: string) => void): Promise<void> => execute(command, log, line, token);
  report("looking for Python");
  const python = await findPython((command) => run(command, () => undefined));
  if (token.isCancellationRequested) {
    throw new Error("the installation was cancelled.");
  }
  if (python === undefined) {
    throw new Error(`needs Python ${NEEDED} or newer with venv (on Debian and Ubuntu: apt install python3-venv).`);
  }
  report("making an environment");
  await run([...python, "-I", "-m", "venv", folder], () => undefined);
  const pip = [interpreter(folder), "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"];
  await run([...pip, requirement], (line) => {
    if (/^(Collecting|Downloading|Building|Installing)/.test(line.trim())) {
      report(line.trim().split(" ", 2).join(" "));
    }
  });
  await writeFile(path.join(folder, COMPLETE), requirement);
}

function interpreter(folder: string): string {
  return process.platform === "win32" ? path.join(folder, "Scripts", "python.exe") : path.join(folder, "bin", "python");
}

async function findPython(run: (command: string[]) => Promise<void>): Promise<string[] | undefined> {
  for (const candidate of CANDIDATES) {
    try {
      await run([...candidate, "-I", "-c", USABLE]);
      return candidate;
    } catch {
      // missing or too old: the next one
    }
  }
  return undefined;
}

function execute(
  [command, ...args]: string[],
  log: LogOutputChannel,
  line: (text: string) => void,
  token: CancellationToken,
): Promise<void> {
  return new Promise((resolve, reject) => {
    log.info([command, ...args].join(" "));
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    const cancelled = token.onCancellationRequested(() => child.kill());
    let problem = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      for (const one of text.split(/\r?\n/).filter(Boolean)) {
        log.info(one);
        line(one);
      }
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      log.info(text.trimEnd());
      problem = text.trim().split("\n").at(-1) ?? problem;
    });
    child.on("error", reject);
    child.on("close", (code) => {
      cancelled.dispose();
      if (code === 0) {
        resolve();
      } else if (token.isCancellationRequested) {
        reject(new Error("the installation was cancelled."));
      } else {
        reject(new Error(`${path.basename(command)} failed: ${problem || `exit status ${code}`}`));
      }
    });
  });
}
