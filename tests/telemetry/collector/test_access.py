from __future__ import annotations

import stat
from pathlib import Path

import pytest

from telemetry.collector.access import (
    RateLimiter,
    Role,
    TokenFileError,
    make_tokens,
    read_tokens,
)

LONG = "a-token-that-is-long-enough"


def test_made_tokens_are_private_and_have_one_role(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "tokens"
    make_tokens(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    plain = dict(line.split() for line in file.read_text().splitlines())
    tokens = read_tokens(file)
    assert tokens.find(plain["upload"], Role.UPLOAD)
    assert tokens.find(plain["upload"], Role.READ) is None
    assert tokens.find(plain["read"], Role.UPLOAD) is None
    assert plain["upload"] not in repr(tokens)
    with pytest.raises(TokenFileError):
        make_tokens(file)


@pytest.mark.parametrize("wrong", ["", " ", "x", LONG + "x", LONG[:-1], "\udcff", LONG.upper()])
def test_wrong_tokens(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "tokens").write_text(f"# ours\n\nupload {LONG} # of CI\n")
    tokens = read_tokens(tmp_path / "tokens")
    assert tokens.find(LONG, Role.UPLOAD)
    assert tokens.find(wrong, Role.UPLOAD) is None


@pytest.mark.parametrize(
    "text", [f"admin {LONG}", LONG, f"upload {LONG} more", "upload short", "\udcff"]
)
def test_files_with_a_mistake_are_named_and_keep_their_secret(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(f"\n{text}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(TokenFileError, match="tokens") as caught:
        read_tokens(file)
    assert LONG not in str(caught.value)


def test_rates_are_for_each_sender() -> None:
    now = [0.0]
    rate = RateLimiter(10, 20, lambda: now[0])
    assert rate.wait_s("a", 20) == 0
    assert rate.wait_s("a", 5) == pytest.approx(0.5)
    assert rate.wait_s("b", 5) == 0
    now[0] = 0.5
    assert rate.wait_s("a", 5) == 0
    # More than a burst goes once the bucket is full, and is paid for afterwards.
    now[0] = 10
    assert rate.wait_s("a", 40) == 0
    assert rate.wait_s("a", 1) == pytest.approx(2.1)
