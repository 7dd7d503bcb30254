"""Our language server with a real llama.cpp server as its remote engine, on our own weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path

import httpx
import psutil
import pytest

import completion.engine
from models.registry import find, load_manifest
from models.tokenizer import Tokenizer
from tests.e2e import llama_server
from tests.e2e.waiting import wait_for
from tests.lsp_server.client import TIMEOUT, Client, RpcError

SERVER = [sys.executable, "-I", "-m", "lsp_server", "serve"]
MODEL = os.environ.get("SNOWCODER_E2E_MODEL")
URI = "file:///project/a.py"
NAME = "snowcoder-88m"
"""By which the template of our own special tokens is found."""
KNOWN = "for name in names:\n    print(name)\n\n" * 3 + "for name in names:\n    print"
"""Code whose next word any model for Python knows: `(name)`."""
CANCELLED = -32800
# Everything is shown, however unsure and late: these tests are not about the model.
SETTINGS = {"engine": "remote", "remoteModel": NAME, "deadlineMs": 20_000, "minLogprob": -1000}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights as GGUF, written as a user would."""
    path = tmp_path_factory.mktemp("gguf") / f"{NAME}.gguf"
    command = [sys.executable, "-I", "-m", "lsp_server", "models", "export", "--to", "gguf"]
    if MODEL:
        command += [MODEL]
    subprocess.run([*command, "--out", str(path)], check=True)
    return path


@pytest.fixture
def llama(exported: Path) -> Iterator[tuple[psutil.Popen, str]]:
    with llama_server.running(exported, NAME) as started:
        yield started


@contextmanager
def editor(address: str, state: Path, **settings: object) -> Iterator[Client]:
    """An editor whose server asks llama.cpp at `address`."""
    folders = ("SNOWCODER_STATE_DIR", "SNOWCODER_DATA", "SNOWCODER_CACHE_DIR")
    with Client(SERVER, environment=dict.fromkeys(folders, str(state))) as client:
        local = {"model": MODEL}
        client.initialize(local | SETTINGS | {"remoteUrl": address} | settings)
        client.status("idle")
        client.open(URI, KNOWN)
        yield client


def begin(client: Client) -> int:
    """Ask at the end of the document."""
    lines = KNOWN.split("\n")
    return client.begin_complete(URI, len(lines) - 1, len(lines[-1]))


def asked(client: Client, address: str) -> bool:
    """Whether the language server has a connection to llama.cpp."""
    port = int(address.rpartition(":")[2])
    connections = psutil.Process(client.process.pid).net_connections("tcp")
    return any(
        one.raddr and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
        for one in connections
    )


def test_llama_cpp_reads_nearly_the_same_tokens(llama: tuple[psutil.Popen, str]) -> None:
    _, address = llama
    weights = find(MODEL)
    manifest = load_manifest(weights)
    tokenizer = Tokenizer.from_file(weights / manifest.tokenizer, manifest.template)
    text = Path(completion.engine.__file__).read_text()
    answer = httpx.post(f"{address}/extras/tokenize", json={"input": text}, timeout=TIMEOUT)
    ours, theirs = list(tokenizer.encode(text)), answer.json()["tokens"]
    matching = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    assert sum(block.size for block in matching) > 0.95 * len(ours)


def test_llama_cpp_s_text_is_suggested(llama: tuple[psutil.Popen, str], tmp_path: Path) -> None:
    _, address = llama
    # Without a local model nobody else could have written it.
    with editor(address, tmp_path, model="none-such") as client:
        (item,) = client.result(begin(client))
        assert item["insertText"] == "(name)"
        assert client.leave() == 0


def test_a_request_is_cancelled_while_llama_cpp_works(
    llama: tuple[psutil.Popen, str], tmp_path: Path
) -> None:
    process, address = llama
    with editor(address, tmp_path, model="none-such") as client:
        process.send_signal(signal.SIGSTOP)
        number = begin(client)
        wait_for(lambda: asked(client, address), TIMEOUT)
        client.notify("$/cancelRequest", {"id": number})
        with pytest.raises(RpcError) as raised:
            client.result(number)
        assert raised.value.code == CANCELLED
        wait_for(lambda: not asked(client, address), TIMEOUT)
        process.send_signal(signal.SIGCONT)
        (item,) = client.result(begin(client))
        assert item["insertText"] == "(name)"


def test_the_local_model_answers_when_llama_cpp_is_killed(
    llama: tuple[psutil.Popen, str], tmp_path: Path
) -> None:
    process, address = llama
    with editor(address, tmp_path) as client:
        process.send_signal(signal.SIGSTOP)
        number = begin(client)
        wait_for(lambda: asked(client, address), TIMEOUT)
        process.kill()
        (item,) = client.result(number)
        assert item["insertText"].startswith("(name)")
        message = client.notifications.get(timeout=TIMEOUT)["params"]["message"]
        assert "the local model answers" in message
        assert "broke off" in message


def test_the_local_model_answers_while_nobody_listens(exported: Path, tmp_path: Path) -> None:
    with llama_server.running(exported, NAME) as (_, address):
        pass
    with editor(address, tmp_path) as client:
        (item,) = client.result(begin(client))
        assert item["insertText"].startswith("(name)")
        assert "no connection" in client.notifications.get(timeout=TIMEOUT)["params"]["message"]
