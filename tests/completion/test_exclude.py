from __future__ import annotations

import pytest

from completion.exclude import ExcludeRules, PatternError, check_patterns, readable_patterns

RULES = ExcludeRules(
    user=["*.gen.py", "/private/"],
    folders={"/p": ["build/", "notes*.py", "!notes_public.py"], "/p/inner": ["x.py"], "/q": None},
)


@pytest.mark.parametrize(
    ("path", "because"),
    [
        ("/p/.env", "secrets"),
        ("/p/deep/.env.local", "secrets"),
        ("/anywhere/server.pem", "secrets"),
        ("/home/me/.ssh/config", "secrets"),
        ("/p/.git/hooks/x.py", "secrets"),
        ("/home/me/.aws/credentials", "secrets"),
        ("/p/a.gen.py", "the setting exclude"),
        ("/p/private/a.py", "the setting exclude"),
        ("/p/build/a.py", ".snowcoderignore"),
        ("/p/notes_1.py", ".snowcoderignore"),
        ("/p/inner/x.py", ".snowcoderignore"),
        ("/p/inner/build/a.py", ".snowcoderignore"),
        ("/q/a.py", "not been read"),
    ],
)
def test_excluded(path: str, because: str) -> None:
    assert because in (RULES.reason(path) or "")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "Untitled-1",
        "/p/a.py",
        "/p/.env.example",
        "/p/notes_public.py",
        "/p/x.py",
        "/p/environment.py",
        "/other/build/a.py",
        "/pp/build/a.py",
        "/c:/Users/me/a.py",
    ],
)
def test_not_excluded(path: str) -> None:
    assert RULES.reason(path) is None


def test_patterns_that_cannot_be_read() -> None:
    with pytest.raises(PatternError, match="'!'"):
        check_patterns(["fine", "!"])
    assert readable_patterns("a.py\n!\n# comment\n\nb/") == ["a.py", "# comment", "", "b/"]
