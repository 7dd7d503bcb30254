"""Indexes and their builders, for tests."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

from completion.context import store
from completion.context.builder import Builder
from completion.context.stored import StoredIndex

SHOP = '''"""Shop."""
from base import Base


class Shop(Base):
    """Sells."""

    def sell_apple(self, count: int) -> int:
        """Sell apples."""
        return count
'''


def put(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def built(root: Path, folder: Path, *exclude: str) -> StoredIndex:
    builder = Builder(root, folder, exclude)
    builder.scan()
    builder.close()
    return StoredIndex(folder)


def dump(index: StoredIndex, folder: Path) -> dict[str, Any]:
    """Everything that an index says, apart from numbers given in order of arrival."""
    path = store.current(folder)
    assert path is not None
    connection = sqlite3.connect(path)
    try:
        files = [row[0] for row in connection.execute("SELECT path FROM files ORDER BY path")]
        terms = connection.execute("SELECT * FROM frequencies ORDER BY term").fetchall()
        # Compares the words with what the chunks' words are said to be.
        vocabulary = "CREATE VIRTUAL TABLE temp.v USING fts5vocab(main, words, row)"
        connection.execute(vocabulary)
        assert connection.execute("SELECT term, doc FROM v ORDER BY term").fetchall() == terms
    finally:
        connection.close()
    return {
        "files": files,
        "terms": terms,
        "chunks": [index.chunks(path) for path in files],
        "definitions": [index.definitions_in(path) for path in files],
        "found": [
            (chunk, round(score, 6))
            for term, _ in terms
            for chunk, score in index.search([term], 1000)
        ],
    }


def execute(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def start(root: Path, cache: Path, log: TextIO | None = None) -> subprocess.Popen[str]:
    """The server's builder; `log` gets what it logs."""
    child = subprocess.Popen(
        [sys.executable, "-m", "completion.context.builder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert child.stdin is not None
    first = {"job": 0, "root": str(root), "cache": str(cache), "exclude": []}
    child.stdin.write(json.dumps(first) + "\n")
    child.stdin.flush()
    return child


def tell(child: subprocess.Popen[str], *changed: str) -> None:
    assert child.stdin is not None
    child.stdin.write(json.dumps({"job": 1, "changed": changed}) + "\n")
    child.stdin.flush()


def ready(child: subprocess.Popen[str]) -> int:
    assert child.stdout is not None
    for line in child.stdout:
        message = json.loads(line)
        if message["state"] == "ready":
            return message["files"] or 0
    raise AssertionError("the builder ended")


def end(child: subprocess.Popen[str]) -> None:
    child.communicate(timeout=60)
    assert child.returncode == 0


def many(root: Path, count: int) -> None:
    for n in range(count):
        put(root, f"pkg{n % 7}/m{n}.py", SHOP.replace("apple", f"fruit{n}") * 4)
