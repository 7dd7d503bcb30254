"""The server seen by pytest-lsp's client, as other language servers are tested."""

import sys

import pytest_lsp
from lsprotocol import types
from pytest_lsp import ClientServerConfig, LanguageClient, client_capabilities

URI = "file:///project/a.py"


@pytest_lsp.fixture(
    config=ClientServerConfig(
        server_command=[sys.executable, "-I", "-m", "lsp_server", "serve", "--model", "/none"]
    )
)
async def client(lsp_client: LanguageClient):
    """A session with a server whose model cannot be loaded: what is tested is the protocol."""
    capabilities = client_capabilities("neovim")
    capabilities.text_document.inline_completion = types.InlineCompletionClientCapabilities()
    result = await lsp_client.initialize_session(types.InitializeParams(capabilities=capabilities))
    assert result.capabilities.inline_completion_provider
    yield
    await lsp_client.shutdown_session()


async def test_requests_are_answered_and_the_reason_is_told(client: LanguageClient):
    client.text_document_did_open(
        types.DidOpenTextDocumentParams(types.TextDocumentItem(URI, "python", 1, "x = 1\n"))
    )
    answer = await client.text_document_inline_completion_async(
        types.InlineCompletionParams(
            context=types.InlineCompletionContext(types.InlineCompletionTriggerKind.Invoked),
            text_document=types.TextDocumentIdentifier(URI),
            position=types.Position(0, 5),
        )
    )
    assert not answer
    why = await client.workspace_execute_command_async(
        types.ExecuteCommandParams(command="snowcoder.why", arguments=[1])
    )
    assert why[0]["rule"] == "error"
    assert any("no model" in message.message for message in client.messages)
