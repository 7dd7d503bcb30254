"""What is asked of the client after the handshake: its settings, and to be told of changes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer

from completion.exclude import IGNORE_FILE
from lsp_server.settings import SECTION

logger = logging.getLogger(__name__)

_ANSWER_S = 10.0


async def pull_settings(server: LanguageServer) -> tuple[bool, object]:
    """The client's value of the section (`workspace/configuration`), and whether there is one."""
    workspace = server.client_capabilities.workspace
    if workspace is None or not workspace.configuration:
        return False, None
    item = types.ConfigurationItem(section=SECTION)
    question = server.workspace_configuration_async(types.ConfigurationParams(items=[item]))
    answer: Any = await _answer(question)
    if isinstance(answer, list | tuple) and len(answer) == 1:
        return True, answer[0]
    return False, None


async def register(server: LanguageServer, *globs: str) -> None:
    """Ask to be told when settings, ignore files or files of these globs change, where the client
    can be asked."""
    workspace = server.client_capabilities.workspace
    if workspace is None:
        return
    registrations = []
    settings, files = workspace.did_change_configuration, workspace.did_change_watched_files
    if settings is not None and settings.dynamic_registration:
        method = types.WORKSPACE_DID_CHANGE_CONFIGURATION
        options: Any = types.DidChangeConfigurationRegistrationOptions(section=SECTION)
        registrations.append(types.Registration("snowcoder-settings", method, options))
    if files is not None and files.dynamic_registration:
        method = types.WORKSPACE_DID_CHANGE_WATCHED_FILES
        watchers = [types.FileSystemWatcher(glob) for glob in (f"**/{IGNORE_FILE}", *globs)]
        options = types.DidChangeWatchedFilesRegistrationOptions(watchers=watchers)
        registrations.append(types.Registration("snowcoder-ignore-files", method, options))
    if registrations:
        params = types.RegistrationParams(registrations)
        await _answer(server.client_register_capability_async(params))


class Progress:
    """Work-done progress while something goes on, where the client shows such things.

    Args:
        server: whose client it is.
        name: tells the tokens of several apart.
        title: what the user reads.
    """

    def __init__(self, server: LanguageServer, name: str, title: str) -> None:
        self._server = server
        self._name = name
        self._title = title
        self._count = 0
        self._running: str | None = None

    def show(self, going_on: bool) -> None:
        """Begin or end it; what is the case already stays."""
        if going_on == (self._running is not None):
            return
        window = self._server.client_capabilities.window
        if window is None or not window.work_done_progress:
            return
        if self._running is not None:
            self._report(self._running, types.WorkDoneProgressEnd())
            self._running = None
            return
        self._count += 1
        self._running = f"snowcoder-{self._name}-{self._count}"
        create = types.WorkDoneProgressCreateParams(token=self._running)
        # Sent in this order the client knows the token before it is used; a client that refuses
        # ignores what follows.
        self._server.window_work_done_progress_create(create)
        self._report(self._running, types.WorkDoneProgressBegin(title=self._title))

    def _report(
        self, token: str, value: types.WorkDoneProgressBegin | types.WorkDoneProgressEnd
    ) -> None:
        self._server.progress(types.ProgressParams(token=token, value=value))


async def _answer(question: Any) -> Any:  # noqa: ANN401 - whatever the client says
    try:
        return await asyncio.wait_for(question, _ANSWER_S)
    except (JsonRpcException, TimeoutError) as error:
        logger.warning("the client did not answer: %r", error)
        return None
