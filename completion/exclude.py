"""Files that never reach a prompt: secrets, what the user excludes, what `.snowcoderignore` names.

Works on paths as URIs spell them (`/home/me/project/.env`), so that deciding never touches a
disk. Patterns are gitignore's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pathspec import GitIgnoreSpec

IGNORE_FILE = ".snowcoderignore"
_MOST_CHARACTERS = 4096
"""No path that could match is longer; a damaged file may be one line, which takes minutes."""

SECRET_PATTERNS = (
    ".env",
    ".env.*",
    "!.env.example",
    "!.env.sample",
    "!.env.template",
    "*.env",
    ".envrc",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    ".ssh/",
    ".gnupg/",
    ".aws/",
    ".git/",
    ".netrc",
    ".pgpass",
    ".pypirc",
    ".npmrc",
    "secrets.*",
    "credentials",
    "credentials.*",
)
"""Never in a prompt, whatever the user sets: files that hold credentials by convention."""


class PatternError(ValueError):
    """A pattern that gitignore's syntax does not know."""


def check_patterns(patterns: Iterable[str]) -> None:
    """Refuse patterns that cannot be read.

    Raises:
        PatternError: names the first one.
    """
    for pattern in patterns:
        try:
            GitIgnoreSpec.from_lines([pattern])
        except ValueError as error:
            raise PatternError(f"{pattern!r} is not a gitignore pattern") from error


def readable_patterns(text: str) -> list[str]:
    """The lines of an ignore file, those that cannot be read left out."""
    lines = []
    for line in text.splitlines():
        if len(line) > _MOST_CHARACTERS:
            continue
        try:
            check_patterns([line])
        except PatternError:
            continue
        lines.append(line)
    return lines


@dataclass(frozen=True, slots=True)
class _Patterns:
    source: str
    lines: tuple[str, ...]
    spec: GitIgnoreSpec

    @classmethod
    def of(cls, source: str, lines: Iterable[str]) -> _Patterns:
        kept = tuple(lines)
        return cls(source, kept, GitIgnoreSpec.from_lines(kept))

    def match(self, path: str) -> str | None:
        result = self.spec.check_file(path)
        if not result.include or result.index is None:
            return None
        return f"{self.lines[result.index]!r} of {self.source}"


@dataclass(frozen=True, slots=True)
class ExcludeRules:
    """Decides by path; immutable, so a changed rule means a new object.

    Attributes:
        user: the setting `exclude`.
        folders: workspace folders (URI paths, no trailing slash) and the lines of their
            `.snowcoderignore`; None while it has not been read.
    """

    user: Sequence[str] = ()
    folders: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    _everywhere: tuple[_Patterns, ...] = field(init=False, repr=False)
    _ignored: Mapping[str, _Patterns] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        everywhere = (
            _Patterns.of("the files with secrets", SECRET_PATTERNS),
            _Patterns.of("the setting exclude", self.user),
        )
        object.__setattr__(self, "_everywhere", everywhere)
        ignored = {
            folder: _Patterns.of(IGNORE_FILE, lines)
            for folder, lines in self.folders.items()
            if lines is not None
        }
        object.__setattr__(self, "_ignored", ignored)

    def reason(self, path: str) -> str | None:
        """Why the file at `path` is excluded, as a sentence; None where it is not.

        A file in a workspace folder is judged by its path below that folder (the innermost
        one), any other by its whole path.
        """
        inside = [name for name in self.folders if path.startswith(f"{name}/")]
        folder = max(inside, key=len, default="")
        below = path[len(folder) :].lstrip("/")
        if not below:
            return None
        for patterns in self._everywhere:
            if found := patterns.match(below):
                return f"the file is excluded by {found}"
        for name in inside:
            if self.folders[name] is None:
                return f"the {IGNORE_FILE} of {name} has not been read yet"
            if found := self._ignored[name].match(path[len(name) + 1 :]):
                return f"the file is excluded by {found}"
        return None
