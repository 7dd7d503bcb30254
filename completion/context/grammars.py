"""Which files are source code, and what tree-sitter calls definitions in their languages.

A grammar that is not installed costs its language the cuts at definitions and its symbols, nothing
else: only Python's is a dependency.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import PurePosixPath

from tree_sitter import Language, Parser


@dataclass(frozen=True, slots=True)
class Grammar:
    """One language, in the node types of its tree-sitter grammar.

    Attributes:
        module: wheel that has the grammar.
        definitions: nodes that define a name.
        containers: those of them whose members are definitions too.
        transparent: nodes that only hold definitions.
        entry: function of the module that gives the language.
    """

    module: str
    definitions: frozenset[str]
    containers: frozenset[str]
    transparent: frozenset[str] = field(default_factory=frozenset)
    entry: str = "language"


def _grammar(
    module: str, definitions: str, containers: str, transparent: str = "", entry: str = "language"
) -> Grammar:
    inside = frozenset(containers.split())
    own = frozenset(definitions.split())
    return Grammar(module, own | inside, inside, frozenset(transparent.split()), entry)


PYTHON = _grammar(
    "tree_sitter_python",
    "function_definition",
    "class_definition",
    "decorated_definition if_statement else_clause try_statement except_clause with_statement "
    "block",
)
_SCRIPT = (
    "function_declaration generator_function_declaration method_definition variable_declarator "
    "interface_declaration type_alias_declaration enum_declaration",
    "class_declaration abstract_class_declaration",
    "export_statement lexical_declaration variable_declaration",
)
_C = (
    "function_definition type_definition preproc_def preproc_function_def declaration",
    "struct_specifier union_specifier enum_specifier",
    "preproc_ifdef preproc_if preproc_else linkage_specification declaration_list",
)
_JAVASCRIPT = _grammar("tree_sitter_javascript", *_SCRIPT)
_TYPESCRIPT = _grammar("tree_sitter_typescript", *_SCRIPT, entry="language_typescript")
_TSX = _grammar("tree_sitter_typescript", *_SCRIPT, entry="language_tsx")
_GO = _grammar(
    "tree_sitter_go",
    "function_declaration method_declaration type_spec type_alias const_spec var_spec",
    "",
    "type_declaration const_declaration var_declaration var_spec_list",
)
_JAVA = _grammar(
    "tree_sitter_java",
    "method_declaration constructor_declaration",
    "class_declaration interface_declaration enum_declaration record_declaration",
    "enum_body_declarations",
)
_RUST = _grammar(
    "tree_sitter_rust",
    "function_item function_signature_item struct_item enum_item union_item const_item "
    "static_item type_item macro_definition",
    "trait_item impl_item mod_item",
)
_C_GRAMMAR = _grammar("tree_sitter_c", *_C)
_CPP = _grammar(
    "tree_sitter_cpp",
    f"{_C[0]} alias_declaration",
    f"{_C[1]} class_specifier namespace_definition",
    f"{_C[2]} template_declaration",
)

_BY_SUFFIX: dict[str, Grammar] = {
    **dict.fromkeys((".py", ".pyi", ".pyw"), PYTHON),
    **dict.fromkeys((".js", ".jsx", ".mjs", ".cjs"), _JAVASCRIPT),
    **dict.fromkeys((".ts", ".mts", ".cts"), _TYPESCRIPT),
    **dict.fromkeys((".c",), _C_GRAMMAR),
    # A header may be either; C++'s grammar reads both.
    **dict.fromkeys((".h", ".hh", ".hpp", ".hxx", ".cc", ".cpp", ".cxx"), _CPP),
    ".tsx": _TSX,
    ".go": _GO,
    ".java": _JAVA,
    ".rs": _RUST,
}
_PLAIN = (
    *(".rb", ".php", ".cs", ".kt", ".kts", ".swift", ".scala", ".groovy", ".clj", ".dart", ".m"),
    *(".sh", ".bash", ".ps1", ".lua", ".pl", ".pm", ".r", ".jl", ".ex", ".exs", ".erl", ".hs"),
    *(".ml", ".sql", ".proto", ".vue", ".svelte", ".zig", ".nim"),
)
SUFFIXES = frozenset((*_BY_SUFFIX, *_PLAIN))
"""Of files that are indexed, lower-case; prose and data are not."""


def grammar_of(path: str) -> Grammar | None:
    """The grammar for a file by its suffix; None where there is none."""
    return _BY_SUFFIX.get(PurePosixPath(path).suffix.lower())


@cache
def parser_of(grammar: Grammar) -> Parser | None:
    """A parser; None where the grammar is not installed."""
    try:
        module = import_module(grammar.module)
    except ImportError:
        return None
    return Parser(Language(getattr(module, grammar.entry)()))
