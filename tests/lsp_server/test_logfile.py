from __future__ import annotations

import logging
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from lsp_server import logfile
from lsp_server.paths import state_dir, uri_path


@pytest.fixture
def handlers() -> Iterator[None]:
    """Take back what `configure` does to the process's logging."""
    root = logging.getLogger()
    before = list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in logfile.PACKAGES}
    yield
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_the_log_is_rotated(
    handlers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "_MAX_BYTES", 2000)
    logfile.configure("INFO", tmp_path / "state")
    for number in range(200):
        logging.getLogger("lsp_server.test").info("record %d", number)
    files = sorted((tmp_path / "state").iterdir())
    assert [file.name for file in files] == [
        "server.log",
        "server.log.1",
        "server.log.2",
        "server.log.3",
    ]
    assert all(file.stat().st_size <= 2000 for file in files)
    assert "record 199" in files[0].read_text()


def test_a_folder_that_cannot_be_made_costs_the_file_only(
    handlers: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    logfile.configure("INFO", tmp_path / "state")
    assert "no log file" in caplog.text


def test_a_full_disk_is_not_an_error(
    handlers: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logfile.configure("INFO", tmp_path)
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no device that is always full")
    # pytest has a file handler of its own, which servers started in other tests close.
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, RotatingFileHandler))
    handler.stream.close()
    handler.stream = full.open("w")  # type: ignore[assignment]
    handler.shouldRollover = lambda record: False  # type: ignore[method-assign]
    logging.getLogger("lsp_server.test").info("written nowhere")
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(OSError, match="No space"):
        handler.stream.close()
    handler.stream = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///home/me/%C3%A4%20b.py", "/home/me/ä b.py"),
        ("untitled:Untitled-1", "Untitled-1"),
        ("file:///c%3A/x.py", "/c:/x.py"),
        ("file://[half", "file://[half"),
        ("", ""),
    ],
)
def test_paths_of_uris(uri: str, path: str) -> None:
    assert uri_path(uri) == path


def test_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SNOWCODER_STATE_DIR", str(tmp_path))
    assert state_dir() == tmp_path
    monkeypatch.delenv("SNOWCODER_STATE_DIR")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_dir() == tmp_path / "snowcoder"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert state_dir() == tmp_path / "local" / "snowcoder"
