"""Releases of a package index as repositories of the corpus, from a real index on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models.training.packages import PackageError, choose, fetch, main, read_archive
from models.training.sources import find_repository, licences, list_repositories, python_files

LICENCE = b"Permission is hereby granted, free of charge, to any person\n"
FILES = {
    "demo-1.0/LICENSE": LICENCE,
    "demo-1.0/src/demo.py": b"value = 1\n" * 40,
    "demo-1.0/data.bin": b"\0" * 400,
    "../outside.py": b"bad = 1\n" * 40,
}


def sdist(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def wheel(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of an index and its folder."""
    root = tmp_path / "index"
    (root / "demo").mkdir(parents=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None: ...

    handler = partial(Quiet, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", root
        server.shutdown()


def publish(root: Path, name: str, data: bytes, sha256: str | None = None) -> None:
    (root / name).write_bytes(data)
    digest = sha256 or hashlib.sha256(data).hexdigest()
    file = {"filename": name, "url": f"../{name}", "hashes": {"sha256": digest}, "size": len(data)}
    page = {"name": "demo", "files": [file]}
    (root / "demo" / "index.html").write_text(json.dumps(page))


def test_a_release_becomes_the_same_commit_every_time(index, tmp_path):
    address, root = index
    publish(root, "demo-1.0.tar.gz", sdist(FILES))
    first, second = (fetch(tmp_path / name, "Demo", address) for name in ("a", "b") if
                     (tmp_path / name).mkdir() is None)  # fmt: skip
    assert first == second
    name, commit = first.split()
    assert name == "demo==1.0"
    assert list_repositories(tmp_path / "a") == ["pypi/demo==1.0"]
    repository = find_repository(tmp_path / "a", "pypi/demo==1.0")
    assert repository is not None
    assert licences(repository, commit) == ("MIT", [])
    # Neither data nor what leads out of the archive's folder.
    assert [path for path, _ in python_files(repository, commit)] == ["outside.py", "src/demo.py"]
    assert not (tmp_path / "outside.py").exists()


def test_an_archive_that_is_not_the_one_announced_is_refused(index, tmp_path):
    address, root = index
    publish(root, "demo-1.0.tar.gz", sdist(FILES), sha256="0" * 64)
    with pytest.raises(PackageError, match="not what the index says"):
        fetch(tmp_path, "demo", address)
    assert list_repositories(tmp_path) == []


def test_what_cannot_be_had_is_named_and_the_rest_is_brought(index, tmp_path, capsys):
    address, root = index
    publish(root, "demo-1.0.tar.gz", sdist(FILES))
    main([str(tmp_path / "mirror"), "absent", "demo==2.0", "demo", "--index", address])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("left out absent:")
    assert "404" in lines[0]
    assert lines[1] == "left out demo==2.0: demo: no release 2.0 with source"
    assert lines[2].startswith("demo==1.0 ")


def test_a_wheels_licence_moves_to_the_root():
    data = wheel({"demo/a.py": b"x = 1\n", "demo-1.0.dist-info/licenses/LICENSE": LICENCE})
    assert sorted(dict(read_archive("demo-1.0-py3-none-any.whl", data))) == ["LICENSE", "demo/a.py"]


@pytest.mark.parametrize("name", ["demo-1.0.tar.gz", "demo-1.0-py3-none-any.whl"])
def test_a_broken_archive_is_a_named_error(name):
    with pytest.raises(PackageError, match="not an archive"):
        list(read_archive(name, b"no archive"))


def test_the_newest_final_release_is_taken_and_its_sources_before_its_wheel():
    names = [
        "demo-1.0.tar.gz",
        "demo-1.1-py3-none-any.whl",
        "demo-1.1.tar.gz",
        "demo-2.0rc1.tar.gz",
    ]
    page = {"name": "demo", "files": [{"filename": n} for n in [*names, "demo.exe", "bad.tar.gz"]]}
    version, file = choose(page, None)
    assert (str(version), file["filename"]) == ("1.1", "demo-1.1.tar.gz")
    page["files"][2]["yanked"] = True
    assert choose(page, None)[1]["filename"] == "demo-1.1-py3-none-any.whl"
    assert choose(page, "2.0rc1")[1]["filename"] == "demo-2.0rc1.tar.gz"
