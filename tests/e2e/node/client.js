// Drives the server with vscode-languageserver-protocol over stdio and prints one JSON object.
// Usage: node client.js COMMAND [ARGUMENT...]
"use strict";
const { spawn } = require("node:child_process");
const { StreamMessageReader, StreamMessageWriter } = require("vscode-languageserver-protocol/node");
const protocol = require("vscode-languageserver-protocol");

const URI = "file:///project/stack.py";
const BEFORE = [
  "class Stack:",
  "    def __init__(self):",
  "        self.items = []",
  "",
  "    def push(self, item):",
  "        self.items.append(item)",
  "",
  "    def pop(self):",
  "        return self.items.pop()",
  "",
  "    def __len__(self):",
];
const LINE = "        return len(self.items)";

async function main() {
  const [command, ...args] = process.argv.slice(2);
  const server = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
  const exited = new Promise((resolve) => server.on("exit", resolve));
  const connection = protocol.createProtocolConnection(
    new StreamMessageReader(server.stdout),
    new StreamMessageWriter(server.stdin),
  );
  const report = { states: [], items: 0, refused: null, cancelled: null };
  const idle = new Promise((resolve) => {
    connection.onNotification("snowcoder/status", ({ state }) => {
      report.states.push(state);
      if (state === "idle" || state === "error") resolve(state);
    });
  });
  connection.onRequest(protocol.ConfigurationRequest.type, ({ items }) =>
    items.map(({ section }) => (section === "snowcoder" ? { minLogprob: null, deadlineMs: null } : null)),
  );
  connection.onRequest(protocol.RegistrationRequest.type, () => undefined);
  connection.listen();

  const { capabilities } = await connection.sendRequest(protocol.InitializeRequest.type, {
    processId: process.pid,
    rootUri: null,
    workspaceFolders: [{ uri: "file:///project", name: "project" }],
    capabilities: {
      general: { positionEncodings: ["utf-16"] },
      workspace: { configuration: true, didChangeConfiguration: { dynamicRegistration: true } },
      textDocument: { inlineCompletion: {} },
    },
  });
  report.capable = capabilities.inlineCompletionProvider !== undefined;
  await connection.sendNotification(protocol.InitializedNotification.type, {});
  await idle;

  const text = [...BEFORE, ""].join("\n");
  await connection.sendNotification(protocol.DidOpenTextDocumentNotification.type, {
    textDocument: { uri: URI, languageId: "python", version: 1, text },
  });
  const line = BEFORE.length;
  const ask = (character, triggerKind, token) =>
    connection.sendRequest(
      protocol.InlineCompletionRequest.type,
      { textDocument: { uri: URI }, position: { line, character }, context: { triggerKind } },
      token,
    );
  for (let column = 0; column < LINE.length && report.items === 0; column++) {
    const place = { line, character: column };
    await connection.sendNotification(protocol.DidChangeTextDocumentNotification.type, {
      textDocument: { uri: URI, version: column + 2 },
      contentChanges: [{ range: { start: place, end: place }, text: LINE[column] }],
    });
    const items = (await ask(column + 1, protocol.InlineCompletionTriggerKind.Automatic)) ?? [];
    report.items = items.length;
    if (items.length > 0) {
      const [item] = items;
      report.insertText = item.insertText;
      report.onTheLine = item.range.start.line === line && item.range.end.line === line;
      await connection.sendNotification("textDocument/didShowCompletion", { item });
      await connection.sendRequest(protocol.ExecuteCommandRequest.type, item.command);
    }
  }

  const source = new protocol.CancellationTokenSource();
  const pending = ask(0, protocol.InlineCompletionTriggerKind.Invoked, source.token);
  source.cancel();
  report.cancelled = await pending.then(() => "answered", ({ code }) => code);
  report.refused = await connection
    .sendRequest("textDocument/inlineCompletion", { nonsense: true })
    .then(() => "answered", ({ code }) => code);
  const why = await connection.sendRequest(protocol.ExecuteCommandRequest.type, {
    command: "snowcoder.why",
  });
  report.events = why.flatMap(({ events }) => events);

  await connection.sendRequest(protocol.ShutdownRequest.type);
  await connection.sendNotification(protocol.ExitNotification.type);
  report.exit = await exited;
  connection.dispose();
  console.log(JSON.stringify(report));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
