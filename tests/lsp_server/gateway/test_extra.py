"""`input_extra` of `/infill`: code of other files that a client sends along."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from completion.context import gate
from lsp_server.gateway.extra import ExtraPiece, SentFiles

SENT = """\
def quarterly_revenue(ledger, year):
    return [sum(ledger.amounts(year, quarter)) for quarter in range(4)]


def yearly_churn(ledger, year):
    return ledger.left(year) / ledger.total(year)
"""
EXTRA = [{"text": SENT, "filename": "billing.py", "time": [1, 2]}]
BEFORE = "from billing import quarterly_revenue\n\n\ndef report(ledger, year):\n"


def evaluated(http: httpx.Client, client: str, **more: Any) -> int:
    """How many tokens the prompt of a document has that nobody else's is like."""
    body = {"input_prefix": BEFORE, "prompt": "    print(quarterly_revenue(", "input_suffix": "\n"}
    wanted = body | {"t_max_predict_ms": 20_000} | more
    answer = http.post("/infill", json=wanted, headers={"X-Client-Id": client})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["tokens_evaluated"])


def test_the_model_reads_what_one_client_sent_and_no_other(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it costs to read, on a machine that others use too, shall not decide here.
    monkeypatch.setattr(gate, "affordable", lambda gain, picked, price: picked)
    with_it, without, another = (uuid.uuid4().hex for _ in range(3))
    alone = evaluated(http, without)
    assert evaluated(http, with_it, input_extra=EXTRA) > alone
    assert evaluated(http, another) == alone


@pytest.mark.parametrize("extra", ["x", [1], [{"text": 1}], {"text": "x"}])
def test_what_is_no_code_is_refused(http: httpx.Client, extra: object) -> None:
    answer = http.post("/infill", json={"prompt": "x", "input_extra": extra})
    assert answer.status_code == 400
    assert "input_extra" in answer.json()["error"]["message"]


def pieces(*texts: str) -> list[ExtraPiece]:
    return [ExtraPiece(text=text, filename=f"{number}.py") for number, text in enumerate(texts)]


def test_code_is_kept_until_other_code_comes() -> None:
    sent = SentFiles()
    assert sent.find("u") is None
    sent.put("u", pieces("a = 1\n", "b = 2\n"), "x")
    first = sent.find("u")
    assert first is not None
    assert [chunk.text for chunk in first[0].chunks("1.py")] == ["b = 2\n"]
    sent.put("u", pieces("a = 1\n", "b = 2\n"), "xy")
    assert sent.find("u") == first, "nothing is read anew"
    sent.put("u", pieces("a = 1\n"), "xy")
    second = sent.find("u")
    assert second is not None
    assert second[0].generation != first[0].generation
    sent.put("v", pieces("c = 3\n"), "x")
    sent.forget("u")
    assert sent.find("u") is None
    assert sent.find("v") is not None
    sent.put("v", [], "x")
    assert sent.find("v") is None


def test_what_the_document_holds_is_left_out() -> None:
    sent = SentFiles()
    sent.put("u", pieces("def f():\n    pass\n", "  \n", ""), "import os\n\ndef f():\n    pass\n\n")
    assert sent.find("u") is None


def test_pieces_of_one_file_are_one_file_and_the_latest_are_kept() -> None:
    sent = SentFiles()
    long = "".join(f"value_{number} = {number}\n" for number in range(2000))
    twice = [ExtraPiece(text=f"{name} = 1\n", filename="f.py") for name in ("a", "b")]
    sent.put("u", [*pieces(long, long.replace("value", "other")), *twice], "x")
    found = sent.find("u")
    assert found is not None
    assert "".join(chunk.text for chunk in found[0].chunks("f.py")) == "a = 1\n\nb = 1\n"
    assert found[0].chunks("1.py")
    assert not found[0].chunks("0.py")
