"""Chunks cover a file and begin at definitions; definitions carry head and documentation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completion.context import grammars
from completion.context.outline import outline

PYTHON = '''"""Module."""
LIMIT: int = 3
@decorated
class Shop(Base):
    """Sells things.

    Slowly.
    """

    def price(self, item,
              tax=0.2) -> float:
        """What `item` costs."""
        return item.cost * (1 + tax)

    async def close(self): return None
if True:
    def helper():
        # Why.
        "Helps."
        inner = 1
'''


def heads(path: str, text: str) -> dict[str, str]:
    return {one.name: one.signature for one in outline(path, text).definitions}


def test_python_definitions_have_signature_and_docstring() -> None:
    assert heads("a.py", PYTHON) == {
        "LIMIT": "LIMIT: int = 3",
        "Shop": 'class Shop(Base):\n    """Sells things."""',
        "price": "    def price(self, item,\n              tax=0.2) -> float:\n"
        '        """What `item` costs."""',
        "close": "    async def close(self): return None",
        "helper": '    def helper():\n        "Helps."',
    }
    assert [one.line for one in outline("a.py", PYTHON).definitions] == [1, 3, 9, 14, 16]


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        (
            "a.ts",
            "// Adds.\nexport function add(a: number): number {\n  return a;\n}\n"
            "export class Foo {\n  go(x: string): void { }\n}\n"
            "export const f = (x: number) => { return x; };\ninterface Bar { a: number }\n",
            {
                "add": "// Adds.\nexport function add(a: number): number",
                "Foo": "export class Foo",
                "go": "  go(x: string): void",
                "f": "export const f = (x: number) =>",
                "Bar": "interface Bar",
            },
        ),
        ("a.tsx", "function App() { return <p>hi</p>; }\n", {"App": "function App()"}),
        ("a.js", "class A {}\n", {"A": "class A"}),
        (
            "a.go",
            "package x\n// Foo does.\nfunc Foo(a int) error {\n\treturn nil\n}\n"
            "type P struct {\n\tA int\n}\n",
            {
                "Foo": "// Foo does.\nfunc Foo(a int) error",
                "P": "type P struct {\n\tA int\n}",
            },
        ),
        (
            "A.java",
            "/**\n * Keeps.\n */\npublic class A {\n  int f(int a) {\n    return a;\n  }\n}\n",
            {"A": "// Keeps.\npublic class A", "f": "  int f(int a)"},
        ),
        (
            "a.rs",
            "/// Doubles.\npub fn f(x: i32) -> i32 {\n    x\n}\n"
            "impl S {\n    pub fn m(&self) {}\n}\n",
            {"f": "// Doubles.\npub fn f(x: i32) -> i32", "m": "    pub fn m(&self)"},
        ),
        ("a.c", "struct p x;\nint main(int n) { return 0; }\n", {"main": "int main(int n)"}),
        (
            "a.h",
            "#ifndef A\n#define A\nint foo(int a);\nclass C {\n  void m() {}\n};\n"
            "void n::C::z() {}\n#endif\n",
            {
                "foo": "int foo(int a);",
                "C": "class C",
                "m": "  void m()",
                "z": "void n::C::z()",
            },
        ),
    ],
)
def test_definitions_of_other_languages(path: str, text: str, expected: dict[str, str]) -> None:
    grammar = grammars.grammar_of(path)
    assert grammar is not None
    pytest.importorskip(grammar.module)
    assert heads(path, text) == expected


def test_a_language_without_its_grammar_is_cut_into_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("completion.context.outline.parser_of", lambda grammar: None)
    found = outline("a.rs", "fn f() {}\n" * 100)
    assert not found.definitions
    assert [chunk.start_line for chunk in found.chunks] == [0, 25, 50, 75]


def test_chunks_begin_at_definitions_and_carry_qualified_names() -> None:
    method = "    # What it is for.\n    def {}(self):\n" + "        work()\n" * 9
    text = (
        "import os\n\n\nclass Shop:\n"
        + method.format("open")
        + method.format("close")
        + method.format("sell")
    )
    chunks = outline("a.py", text).chunks
    assert [(chunk.start_line, chunk.name) for chunk in chunks] == [
        (0, ""),
        (15, "Shop.close"),
        (26, "Shop.sell"),
    ]
    assert chunks[1].text.startswith("    # What it is for.\n    def close")


def test_a_long_function_is_split_between_its_statements() -> None:
    body = "".join(
        f"    if a == {n}:\n        one()\n        two()\n        three()\n" for n in range(30)
    )
    chunks = outline("a.py", f"def long(a):\n{body}").chunks
    assert len(chunks) > 3
    assert {chunk.name for chunk in chunks} == {"long"}
    assert all(chunk.text.startswith("    if a ==") for chunk in chunks[1:])


@given(st.text(st.sampled_from("ab \n():\"'#=,\t\f\u2028é😀") | st.characters(codec="utf-8")))
def test_chunks_cover_any_text(text: str) -> None:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for path in ("a.py", "a.rb"):
        chunks = outline(path, text).chunks
        assert "".join(chunk.text for chunk in chunks) == text + "\n" * bool(
            text and not text.endswith("\n")
        )
        at = 0
        for chunk in chunks:
            assert chunk.start_line == at < chunk.end_line
            assert chunk.text.count("\n") == chunk.end_line - chunk.start_line
            at = chunk.end_line


def test_deep_nesting_ends() -> None:
    text = "x = " + "[\n" * 3000 + "]\n" * 3000
    assert len(outline("a.py", text).chunks) > 100
