"""The server's state: settings, session, what is paused, what was decided, what the client knows.

Handlers (`lsp_server.features`) are thin and call this; the protocol is in `lsp_server.protocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lsprotocol import types
from pygls.lsp.server import LanguageServer

from completion.types import CompletionRequest, Hidden, HiddenReason, Outcome, Record, Trigger
from lsp_server import client_setup, parent
from lsp_server.decisions import FILE_NAME, Decision, Decisions
from lsp_server.indexing import Indexing
from lsp_server.inline import Place, describe
from lsp_server.loading import with_remote
from lsp_server.measure import Measure, start_measure
from lsp_server.notebooks import SYNC
from lsp_server.paths import uri_path
from lsp_server.power import Power
from lsp_server.protocol import Protocol
from lsp_server.session import Loaded, Session
from lsp_server.settings import OnBattery, Settings, read_settings, section
from lsp_server.status import METHOD, Status, StatusReporter
from lsp_server.workspace import Workspace

logger = logging.getLogger(__name__)

Loader = Callable[[str | None, int], Loaded]


class SnowCoderServer(LanguageServer):
    """A pygls server with one engine behind it.

    Args:
        model: weights to load if the client names none; None for the packaged ones.
        threads: threads of one decode if the client gives no number.
        load: makes the engine of a model and a number of threads.
        state: folder for the file of decisions; None keeps them in memory.
        indexing: keeps the indexes that `load` gave the engine.
    """

    protocol: Protocol

    def __init__(
        self,
        model: str | None,
        threads: int,
        load: Loader,
        state: Path | None,
        indexing: Indexing,
    ) -> None:
        super().__init__(
            "snowcoder", _version(), protocol_cls=Protocol, notebook_document_sync=SYNC
        )
        self.settings = Settings()
        self.policies = self.settings.policies()
        self.power = Power()
        self.session = Session(
            self._load,
            self._failed,
            self._ready,
            may_work_ahead=lambda: not self.power.on_battery(),
        )
        # The request that follows an edit shall find the engine free.
        self.protocol.on_edit = self.session.end_rest
        self.folders = Workspace(self._warn)
        self.decisions = Decisions(None if state is None else state / FILE_NAME)
        self.status = StatusReporter(self._send_status)
        self.measure = Measure()
        """Keeps telemetry from `begin_measure` on."""
        self.indexing = indexing
        self._progress = client_setup.Progress(self, "loading", "SnowCoder loads its model")
        self._indexed = client_setup.Progress(self, "index", "SnowCoder indexes the workspace")
        self.paused = False
        self.visible = True
        self._model = model
        self._threads = threads
        self._loader = load
        self._layers: list[object] = [None, None]
        self._told_problems: list[str] = []
        self._told_failure = ""
        self._told_index = False
        self._measuring = False

    # Life --------------------------------------------------------------------------------

    def begin(self, params: types.InitializeParams) -> None:
        """Take over the client's settings and folders; loading begins once it was answered."""
        loop = asyncio.get_running_loop()
        self._layers[0] = section(params.initialization_options)
        self._apply(*read_settings(*self._layers))
        for folder in params.workspace_folders or []:
            self.folders.add(folder.uri)
        if not params.workspace_folders and params.root_uri:
            self.folders.add(params.root_uri)
        self.indexing.on_change = lambda: _post(loop, self.publish)
        loop.call_soon(self._start)
        parent.watch(params.process_id)

    def close(self) -> None:
        """Stop the engine and write what is left."""
        self.session.close()
        self.indexing.close()
        self.decisions.close()
        self.measure.close()

    def begin_measure(self) -> None:
        """Keep telemetry as the settings say; not before the client could say "off"."""
        self._measuring = True
        self.measure.close()
        self.measure = start_measure(self.settings, self._read, self._warn)
        self.protocol.documents.listener = self.measure

    def _read(self, uri: str) -> str | None:
        document = self.protocol.documents.get(uri)
        return None if document is None else document.text

    def _warn(self, message: str) -> None:
        self.show(types.MessageType.Warning, message)

    async def pull_settings(self) -> None:
        """Ask the client for the section, if it answers such questions."""
        found, layer = await client_setup.pull_settings(self)
        if found:
            self.configure(layer)

    def configure(self, layer: object) -> None:
        """Put `layer` on top of the initial settings, in place of an earlier one."""
        before = self.settings
        self._layers[1] = layer
        self._apply(*read_settings(*self._layers))
        now = self.settings
        if _loaded_by(before) != _loaded_by(now):
            self._start()
        if self._measuring:
            self.follow_folders()
        if self._measuring and _recorded(before) != _recorded(now):
            self.begin_measure()

    def _apply(self, settings: Settings, problems: list[str]) -> None:
        self.settings = settings
        self.policies = settings.policies()
        self.folders.exclude(settings.exclude)
        if problems and problems != self._told_problems:
            message = "SnowCoder ignores invalid settings: " + "; ".join(problems)
            loop = asyncio.get_running_loop()
            loop.call_soon(self.show, types.MessageType.Warning, message)
        self._told_problems = problems

    def follow_folders(self) -> None:
        """Keep indexes of the folders that there are now, while context is on."""
        wanted = self.folders.folders if self.settings.context == "on" else []
        self.indexing.follow(wanted, self.settings.exclude)

    def touched(self, uris: Sequence[str]) -> None:
        """Files were made, saved, moved or deleted."""
        self.folders.touched(uris)
        self.indexing.touched(uris)

    def _start(self) -> None:
        self.session.start()
        self.publish()

    def _load(self) -> Loaded:
        settings = self.settings
        model, threads = settings.model or self._model, settings.threads or self._threads
        return with_remote(lambda: self._loader(model, threads), settings)

    def _ready(self) -> None:
        self.status.failure = self._told_failure = ""
        self.publish()

    def _failed(self, error: Exception) -> None:
        serving = self.session.ready
        message = str(error)
        self.status.failure = "" if serving else message
        self.publish()
        if message != self._told_failure:
            self._told_failure = message
            says = "goes on with the model it has" if serving else "cannot suggest anything"
            self.show(types.MessageType.Error, f"SnowCoder {says}: {message}")

    def report_server_error(self, error: Exception, source: type[Exception]) -> None:
        """Log what went wrong; unreadable input is answered. No message pops up in the editor."""
        # JSON too deep or with numbers too long for Python is unreadable as well.
        if isinstance(error, ValueError | RecursionError):
            self.protocol.refuse_unreadable(error)
        else:
            logger.error("%s: %s", source.__name__, error)

    # What the client sees ------------------------------------------------------------------

    def show(self, kind: types.MessageType, message: str) -> None:
        """Show a message in the editor."""
        self.window_show_message(types.ShowMessageParams(type=kind, message=message))

    def publish(self) -> None:
        """Send the status if it changed."""
        self.status.loading = self.session.loading
        if (trouble := self.session.trouble) != self.status.trouble:
            self.status.trouble = trouble
            if trouble:
                self.show(types.MessageType.Warning, f"SnowCoder {trouble}")
        if self.indexing.trouble and not self._told_index:
            self._told_index = True
            message = f"SnowCoder cannot write its index of the workspace: {self.indexing.trouble}"
            self.show(types.MessageType.Warning, message)
        self._progress.show(self.session.loading)
        self._indexed.show(self.indexing.building)
        if self.paused:
            self.status.paused = "paused by the user"
        else:
            self.status.paused = "" if self.visible else "suggestions are hidden in the editor"
        self.status.publish()

    def _send_status(self, status: Status) -> None:
        params = {"state": status.state.value, "reason": status.reason}
        self.protocol.notify(METHOD, params)

    # Requests ------------------------------------------------------------------------------

    def refusal(self, uri: str, trigger: Trigger) -> Hidden | None:
        """Why nothing is generated for a document now, before the engine is asked."""
        reason = HiddenReason.PAUSED
        if self.paused:
            detail = "suggestions are paused; the command snowcoder.resume goes on"
        elif not self.visible:
            detail = "suggestions are hidden in the editor"
        elif excluded := self.folders.rules.reason(uri_path(uri)):
            reason, detail = HiddenReason.EXCLUDED, excluded
        elif self._saves_power(trigger):
            detail = f"on battery, and snowcoder.onBattery is {self.settings.on_battery.value}"
        else:
            return None
        return Hidden(reason, detail, Record())

    def _saves_power(self, trigger: Trigger) -> bool:
        match self.settings.on_battery:
            case OnBattery.ALWAYS:
                return False
            case OnBattery.INVOKED if trigger is Trigger.INVOKED:
                return False
        return self.power.on_battery()

    async def complete(self, request: CompletionRequest, place: Place) -> Outcome | None:
        """One request's outcome, None if superseded; whatever it is, it is noted."""
        self.status.working += 1
        self.publish()
        outcome: Outcome | str | None = "cancelled"
        try:
            refused = self.refusal(request.uri, request.trigger)
            outcome = refused or await self.session.complete(request)
            return outcome
        finally:
            self.status.working -= 1
            self.publish()
            self._note(request, place, outcome)

    def _note(
        self, request: CompletionRequest, place: Place, outcome: Outcome | str | None
    ) -> None:
        self.decisions.add(
            Decision(
                time=datetime.now().astimezone().isoformat(timespec="milliseconds"),
                file=uri_path(request.uri).rpartition("/")[2],
                line=place.cursor.line + 1,
                language=request.language,
                trigger=request.trigger.value,
                **describe(outcome),
            )
        )


def _loaded_by(settings: Settings) -> tuple[object, ...]:
    """What loading an engine takes from the settings."""
    remote = settings.remote_url, settings.remote_model, settings.remote_template
    return settings.model, settings.threads, settings.engine, *remote


def _recorded(settings: Settings) -> tuple[object, ...]:
    """What telemetry takes from the settings."""
    return settings.telemetry, settings.telemetry_retention_days, settings.model


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Run `call` on the loop, from any thread; not at all where the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


def _version() -> str:
    try:
        return version("snowcoder")
    except PackageNotFoundError:
        # Run from a checkout that was never installed.
        return "0"
