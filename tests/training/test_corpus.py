"""Building a corpus from real git repositories, made here."""

import gzip
import json
import subprocess
from pathlib import Path

import pytest

from models.training import corpus
from models.training.dedup import NearDuplicates, Protected, shingles
from models.training.filters import clean
from models.training.licences import detect_spdx, has_copyleft_header
from models.training.shards import read_shards
from models.training.sources import SourceError, load_manifest

MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy"
GPL = "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007"
OURS = Path(__file__).parents[2] / "models" / "training"


def body(seed: str, words: int = 120) -> str:
    """Distinct plausible source text."""
    lines = [f"{seed}_{i} = compute_{seed}(value_{i}, other_{i * 7})" for i in range(words // 5)]
    return "\n".join(lines) + "\n"


def repository(mirror: Path, name: str, files: dict[str, str]) -> None:
    folder = mirror / name.replace("/", "+") / "repo"
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(folder)]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    mirror = tmp_path / "mirror"
    held_out = body("heldout", 400)
    repository(mirror, "held/out", {"LICENSE": MIT, "a.py": held_out})
    repository(mirror, "copyleft/project", {"LICENSE": GPL, "a.py": body("gpl")})
    repository(
        mirror,
        "good/project",
        {
            "LICENSE": MIT,
            "pkg/a.py": body("alpha", 400),
            "pkg/same.py": body("alpha", 400).replace("compute", "compute "),
            "pkg/near.py": body("alpha", 400) + "extra = 1\n",
            "pkg/stolen.py": held_out + body("beta"),
            "pkg/solution.py": body("gamma") + body("benchmark"),
            "vendor/v.py": body("vendored"),
            "enterprise/LICENSE": "All rights reserved. Commercial use needs a contract.",
            "enterprise/e.py": body("enterprise"),
            "pkg/b.py": body("delta", 400),
        },
    )
    data = tmp_path / "benchmarks"
    data.mkdir()
    problem = {"prompt": "def f():\n", "canonical_solution": body("benchmark"), "suffix": ""}
    with gzip.open(data / "x.jsonl.gz", "wt") as out:
        out.write(json.dumps(problem) + "\n")
    (tmp_path / "sources.toml").write_text(
        '[splits]\ntuning = ["held/out"]\nvalidation = []\nreserved = []\n'
    )
    return mirror


def test_scan_lists_permissive_repositories_only(mirror: Path) -> None:
    sources = mirror.parent / "sources.toml"
    corpus.main(["scan", str(mirror), "--sources", str(sources)])
    (source,) = load_manifest(sources).repositories
    assert (source.name, source.spdx) == ("good/project", "MIT")
    assert len(source.commit) == 40


def test_build_keeps_each_good_file_once_and_nothing_protected(mirror: Path, tmp_path) -> None:
    sources = mirror.parent / "sources.toml"
    corpus.main(["scan", str(mirror), "--sources", str(sources)])
    out = tmp_path / "out"
    corpus.main(
        ["build", str(mirror), str(out), "--sources", str(sources), "--benchmarks",
         str(tmp_path / "benchmarks"), "--workers", "1"]
    )  # fmt: skip
    paths = {row["path"] for row in read_shards(sorted(out.glob("*.zst")))}
    alpha = paths & {"pkg/a.py", "pkg/same.py", "pkg/near.py"}
    assert len(alpha) == 1
    assert paths - alpha == {"pkg/b.py"}
    dropped = json.loads((out / "report.json").read_text())["dropped_files"]
    assert dropped["protected: benchmark"] == 1
    assert dropped["protected: project"] == 1


def test_a_broken_repository_is_named_and_left_out(mirror: Path, tmp_path, capfd) -> None:
    repository(mirror, "broken/project", {"LICENSE": MIT, "a.py": body("epsilon", 400)})
    sources = mirror.parent / "sources.toml"
    corpus.main(["scan", str(mirror), "--sources", str(sources)])
    for blob in (mirror / "broken+project/repo/.git/objects").glob("??/*"):
        blob.chmod(0o644)
        blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    out = tmp_path / "out"
    corpus.main(
        ["build", str(mirror), str(out), "--sources", str(sources), "--benchmarks",
         str(tmp_path / "benchmarks"), "--workers", "1"]
    )  # fmt: skip
    assert {row["repo"] for row in read_shards(out.glob("*.zst"))} == {"good/project"}
    assert json.loads((out / "report.json").read_text())["dropped_files"]["repository broken"] == 1
    assert "left out broken/project: git" in capfd.readouterr().err


def test_build_refuses_to_run_without_the_protected_projects(mirror: Path, tmp_path) -> None:
    sources = tmp_path / "other.toml"
    sources.write_text('[splits]\ntuning = ["not/here"]\nvalidation = []\nreserved = []\n')
    with pytest.raises(SourceError, match="not/here must be in the mirror"):
        corpus.main(
            ["build", str(mirror), str(tmp_path / "o"), "--sources", str(sources),
             "--benchmarks", str(tmp_path / "benchmarks"), "--workers", "1"]
        )  # fmt: skip


def test_the_shipped_manifest_names_no_protected_project() -> None:
    manifest = load_manifest()
    names = {source.name for source in manifest.repositories}
    assert len(names) == len(manifest.repositories) >= 200
    assert not names & set(manifest.protected)
    assert len(manifest.protected) == 14


def test_a_broken_manifest_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[splits]\ntuning = 3\n")
    with pytest.raises(SourceError, match=r"s\.toml"):
        load_manifest(tmp_path / "s.toml")


@pytest.mark.parametrize(
    ("text", "spdx"),
    [
        (MIT, "MIT"),
        ("Apache License\n   Version 2.0, January 2004", "Apache-2.0"),
        (GPL, None),
        ("GNU AFFERO GENERAL PUBLIC LICENSE", None),
        (
            "Redistribution and use in source and binary forms … not be used to endorse",
            "BSD-3-Clause",
        ),
        ("Redistribution and use in source and binary forms, with or", "BSD-2-Clause"),
        ("All rights reserved.", None),
        ("", None),
    ],
)
def test_licence_detection(text: str, spdx: str | None) -> None:
    assert detect_spdx(text) == spdx


def test_copyleft_headers_are_seen() -> None:
    assert has_copyleft_header("# SPDX-License-Identifier: GPL-3.0-or-later\nimport os\n")
    assert not has_copyleft_header("# SPDX-License-Identifier: MIT\nimport os\n")


@pytest.mark.parametrize(
    ("path", "data", "kept"),
    [
        ("a.py", b"x = 1\r\ny = 2\r\n", "x = 1\ny = 2\n"),
        ("a.py", b"\xef\xbb\xbfx = 1\n", "x = 1\n"),
        ("a.py", b"x = '\xff'\n", None),
        ("a.py", b"x = '\0'\n", None),
        ("a.py", b"x = '" + b"a" * 1001 + b"'\n", None),
        ("a.py", b"t = [" + b"1234, " * 100 + b"]\n", None),
        ("a.py", b"# Generated by a tool. DO NOT EDIT\nx = 1\n", None),
        ("pkg/_vendor/a.py", b"x = 1\n", None),
        ("pkg/a_pb2.py", b"x = 1\n", None),
    ],
)
def test_clean(path: str, data: bytes, kept: str | None) -> None:
    assert clean(path, data) == kept


def test_licence_headers_do_not_make_files_alike() -> None:
    header = "# " + "Licensed under some licence that is long and the same everywhere. " * 8 + "\n"
    near = NearDuplicates()
    assert not near.seen(shingles(header + body("one", 40)))
    assert not near.seen(shingles(header + body("two", 40)))
    assert near.seen(shingles(body("two", 40)))


def test_protected_matches_by_benchmark_share_and_similarity() -> None:
    ours = [path.read_text() for path in sorted(OURS.glob("*.py"))]
    protected = Protected([body("problem")], ours)
    assert protected.matches(shingles(body("new") + body("problem"))) == "benchmark"
    assert protected.matches(shingles(ours[1] + body("more", 30))) == "project"
    assert protected.matches(shingles(body("new", 300))) is None
