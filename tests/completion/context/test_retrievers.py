from __future__ import annotations

from itertools import pairwise

import pytest

from completion.context.memory import MemoryIndex, split
from completion.context.retrievers import (
    Query,
    bm25,
    definitions,
    edits,
    imports,
    same_file,
    similar,
)
from completion.context.types import Chunk
from completion.context.view import without_copies
from completion.context.words import covered, jaccard, terms

STORE = '''"""Where orders are kept."""

LIMIT = 20


class OrderStore:
    """Keeps orders."""

    def __init__(self, path: str) -> None:
        self.path = path

    def find_order(self, number: int) -> dict:
        """The order of a number."""
        return self.orders[number]

    def _secret(self) -> None:
        pass


def open_store(path: str) -> OrderStore:
    return OrderStore(path)
'''
OTHER = "".join(f"def unrelated_{n}(value):\n    return value * {n}\n\n\n" for n in range(30))
FILES = {
    "shop/store.py": STORE,
    "shop/other.py": OTHER,
    "shop/__init__.py": "",
    "cli.py": "x = 1\n",
}
INDEX = MemoryIndex(FILES)


def test_words_of_identifiers_and_their_parts() -> None:
    assert terms("self.getUserName(HTTPServer2, x_y) if True") == (
        ["getusername", "get", "user", "name", "httpserver2", "http", "server", "x_y"]
    )
    assert jaccard({"a", "b"}, {"b", "c"}) == pytest.approx(1 / 3)
    assert jaccard(set(), set()) == 0
    assert covered("    return orders[1]\n    pass\n", {"return orders[1]"}) == 1.0
    assert covered("a_long_line = 1\nanother_line = 2\n", {"a_long_line = 1"}) == 0.5


def test_chunks_cover_a_file_without_overlap() -> None:
    for path, text in FILES.items():
        chunks = split(path, text)
        assert "".join(chunk.text for chunk in chunks) == text
        assert all(a.end_line == b.start_line for a, b in pairwise(chunks))


def test_imports_of_every_form() -> None:
    text = "from a.b import (c,\n    d as e)\nfrom . import f  # g\nimport h.i\nimport j as k\n"
    assert imports(text) == {"c": "a.b", "e": "a.b", "f": ".", "h": "h.i", "k": "j"}


@pytest.mark.parametrize(
    ("module", "importer", "expected"),
    [
        ("shop.store", "cli.py", ["shop/store.py"]),
        (".store", "shop/other.py", ["shop/store.py"]),
        ("..cli", "shop/other.py", ["cli.py"]),
        (".", "shop/other.py", ["shop/__init__.py"]),
        ("os.path", "cli.py", []),
    ],
)
def test_modules_are_resolved_inside_the_workspace(
    module: str, importer: str, expected: list[str]
) -> None:
    assert INDEX.resolve(module, importer) == expected


def test_bm25_finds_by_the_last_lines_but_never_the_own_file() -> None:
    query = Query("cli.py", "x = 1\norder = find_order(number")
    assert bm25(query, INDEX)[0].chunk.path == "shop/store.py"
    own = Query("shop/store.py", "order = find_order(number")
    assert all(found.chunk.path != "shop/store.py" for found in bm25(own, INDEX))


def test_definitions_of_an_imported_class_come_with_its_public_methods() -> None:
    query = Query("cli.py", "from shop.store import OrderStore\n\nstore = OrderStore(path)\nstore.")
    found = definitions(query, INDEX)
    assert found[0].chunk.path == "shop/store.py"
    assert "def find_order(self, number: int) -> dict:" in found[0].chunk.text
    assert "_secret" not in found[0].chunk.text


def test_a_name_with_many_homes_says_nothing() -> None:
    index = MemoryIndex({f"m{n}.py": "def handle_it(x):\n    pass\n" for n in range(6)})
    assert definitions(Query("a.py", "handle_it("), index) == []
    alone = MemoryIndex({"m.py": "def handle_it(x):\n    pass\n"})
    assert definitions(Query("a.py", "handle_it("), alone)[0].chunk.text == "def handle_it(x):\n"


def test_similar_returns_what_follows_the_match() -> None:
    body = "".join(f"    connection.send_message(field_{n}, value_{n})\n" for n in range(15))
    behind = "    connection.flush_and_close_everything()\n"
    recent = {"b.py": f"def first():\n{body}{behind}"}
    found = similar(Query("a.py", f"def second():\n{body}", recent=recent), MemoryIndex({}))
    assert behind in found[0].chunk.text
    assert found[0].chunk.start_line == 10


def test_same_file_looks_only_above_what_the_prompt_shows() -> None:
    body = "".join(f"    connection.send_message(field_{n}, value_{n})\n" for n in range(15))
    text = f"def first():\n{body}    connection.finish_up()\n{OTHER}def second():\n{body}"
    assert same_file(Query("a.py", text, seen=len(text)), INDEX) == []
    found = same_file(Query("a.py", text, seen=len(body) + 20), INDEX)
    assert "connection.finish_up()" in found[0].chunk.text


def test_edits_keep_their_order() -> None:
    changed = (Chunk("b.py", 0, 1, "new\n"), Chunk("c.py", 3, 4, "old\n"))
    assert [one.chunk for one in edits(Query("a.py", "", edits=changed), INDEX)] == list(changed)


def test_no_retriever_stumbles_over_nothing() -> None:
    for retriever in (bm25, similar, same_file, definitions, edits):
        assert retriever(Query("a.py", ""), MemoryIndex({})) == []


def test_a_view_hides_a_file_and_its_copies() -> None:
    files = {**FILES, "vendored/store.py": STORE + "\nVERSION_OF_COPY = 3\n"}
    view = without_copies(MemoryIndex(files), files, "shop/store.py")
    assert view.search(["find_order"], 5) == []
    assert view.definitions("OrderStore", 5) == []
    assert view.chunks("vendored/store.py") == []
    assert view.chunks("shop/other.py")
