"""Comments are found by Python's tokenizer, code ids are the same, and the hinge teaches."""

import ast
import io
import tokenize
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.training import pivots, train
from models.training.model import IGNORE, Model, ModelConfig
from models.training.pivots import Block, PairDataset, PivotError, Row, blocks, pair
from models.training.shards import write_shards
from tests.training.test_train import rows, run_arguments  # noqa: F401

SOURCE = '''import os


def area(w, h):
    # multiply both sides
    size = w * h  # in pixels
    text = "# no comment"
    """
    # none either
    """

    # a second one
    return size


def other():
    return 1  # not the first line


if area(1, 2):
    # inner
    for x in ():
        # innermost
        print(x)
# at the end
'''


def code_tokens(text: str) -> list[tuple[int, str]]:
    silent = (tokenize.COMMENT, tokenize.NL)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [(token.type, token.string) for token in tokens if token.type not in silent]


def test_only_comments_are_removed() -> None:
    bare = pivots.without_comments(SOURCE)
    assert bare is not None
    assert "multiply" not in bare
    assert "in pixels" not in bare
    assert '"# no comment"' in bare
    assert "    # none either\n" in bare
    assert code_tokens(bare) == code_tokens(SOURCE)


def test_code_tokens_of_real_files_stay(sources: list[tuple[str, str]]) -> None:
    for _, text in sources:
        bare = pivots.without_comments(text)
        assert bare is not None
        assert code_tokens(bare) == code_tokens(text)


LINES = st.sampled_from(
    [
        "x = 1", "x = '#'  # said", "# alone", "", "if x:\n    # why\n    y = 2  # b", "f(  # open",
        ")", '"""', "z = f'{x}#'", "\t# tab", "# ü \u2028 #", "\\",
        "y = (1,  #\n     # in\n     2)",
    ]
)  # fmt: skip


@given(st.lists(LINES, max_size=12))
def test_whatever_is_removed_code_tokens_stay(lines: list[str]) -> None:
    text = "\n".join(lines) + "\n"
    bare = pivots.without_comments(text)
    if bare is None:
        continued = any(
            above.endswith("\\") and "#" in below for above, below in pairwise(text.split("\n"))
        )
        if not continued:
            with pytest.raises(SyntaxError):
                ast.parse(text)
        return
    assert code_tokens(bare) == code_tokens(text)
    assert not any(
        token.type == tokenize.COMMENT
        for token in tokenize.generate_tokens(io.StringIO(bare).readline)
    )


def test_blocks_begin_with_a_comment_and_put_together_are_the_file() -> None:
    found = blocks(SOURCE)
    first = {block.pieces[0].text.strip() for block in found}
    assert first == {"# multiply both sides", "# inner", "# innermost"}
    for block in found:
        assert block.before + "".join(p.text for p in block.pieces) + block.after == SOURCE
    assert blocks("def f(:\n    # x\n    y\n  z") == []


def test_both_variants_have_the_same_code_ids(sources, tokenizer) -> None:
    seen = 0
    for _, text in [("", SOURCE), *sources]:
        for block in blocks(text):
            both = pair(block, tokenizer, 4096)
            if both is None:
                continue
            seen += 1
            kept = [[i for i, code in zip(row.ids, row.code, strict=True) if code] for row in both]
            assert kept[0] == kept[1]
            assert len(both[0].ids) > len(both[1].ids)
            # Put together, the ids are those that the server's prompts have.
            code = "".join(piece.text for piece in block.pieces if not piece.comment)
            assert tokenizer.decode(kept[0]) == code
            assert kept[0] == tokenizer.encode(code).ids
    assert seen >= 3


def test_targets_stand_before_the_code_and_nothing_else_is_counted() -> None:
    ids, targets = pivots.tensors([Row([10, 11, 12, 13], [False, False, True, True])], 6)
    assert ids.tolist() == [[10, 11, 12, 13, 7, 7]]
    assert targets.tolist() == [[IGNORE, 12, 13, IGNORE, IGNORE, IGNORE]]


def test_blocks_that_do_not_fit_are_left(tokenizer) -> None:
    (block,) = blocks("def f():\n    # say\n    return compute(first, second, third)\n")
    both = pair(block, tokenizer, 400)
    assert both is not None
    shorter = pair(block, tokenizer, len(both[0].ids) - 1)
    assert shorter is not None, "text before the block gives way"
    assert sum(shorter[0].code) == sum(both[0].code)
    assert pair(block, tokenizer, sum(both[0].code)) is None
    assert pair(Block("", block.pieces[:1], ""), tokenizer, 400) is None


def test_the_hinge_is_zero_where_comments_help_enough() -> None:
    loss, hinge = pivots.contrast(torch.tensor([1.0, 1.5, 2.0, 2.05]))
    assert hinge.item() == pytest.approx(0.05 / 2)
    assert loss.item() == pytest.approx(1.5 + 0.05 / 2)


def test_the_share_is_spread_evenly() -> None:
    assert sum(pivots.due(number, 0.05) for number in range(1000)) == 50
    assert not any(pivots.due(number, 0.0) for number in range(1000))


def test_rows_are_averaged_apart() -> None:
    torch.manual_seed(0)
    model = Model(ModelConfig(700, 64, 128, 2, 4, 2, 16))
    ids = torch.randint(8, 700, (2, 12))
    targets = torch.randint(8, 700, (2, 12))
    targets[0, 3:] = IGNORE
    both = model.row_losses(ids, targets)
    for row in range(2):
        alone = model(ids[row : row + 1], targets[row : row + 1])
        torch.testing.assert_close(both[row], alone)


def test_training_on_pairs_closes_the_hinge(tokenizer) -> None:
    torch.manual_seed(0)
    found = [both for block in blocks(SOURCE) if (both := pair(block, tokenizer, 300))]
    ids, targets = pivots.tensors([row for both in found for row in both], 300)
    model = Model(ModelConfig(700, 64, 128, 2, 4, 2, 16))
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    losses, hinges = [], []
    for _ in range(30):
        loss, hinge = pivots.contrast(model.row_losses(ids, targets))
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert model.embed_tokens.weight.grad is not None
        assert model.embed_tokens.weight.grad.abs().sum() > 0
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        hinges.append(hinge.item())
    assert losses[-1] < 0.7 * losses[0]
    assert hinges[-1] < hinges[0]


def test_pairs_count_by_their_tokens(run_arguments, tokenizer, tmp_path: Path) -> None:  # noqa: F811
    trainer = train.main([*run_arguments, "--out", str(tmp_path), "--tokens", "768"])
    found = [both for block in blocks(SOURCE) if (both := pair(block, tokenizer, 300))]
    gradients = []
    for times in (1, 2):  # the mean over the pairs is the same
        batch = pivots.tensors([row for both in found * times for row in both], 300)
        trainer.model.zero_grad()
        trainer._contrast(batch, "cpu", passes=1)
        gradients.append(trainer.model.embed_tokens.weight.grad.clone())
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


def shard(folder: Path, *texts: str) -> Path:
    write_shards(
        [{"repo": "a/b", "path": f"{n}.py", "text": text} for n, text in enumerate(texts)],
        folder,
        1 << 30,
    )
    return folder / "shard-000.jsonl.zst"


def test_pairs_are_endless_and_reproducible(tokenizer, tmp_path: Path) -> None:
    path = shard(tmp_path, SOURCE, "broken(", SOURCE)

    def first(seed: int) -> list[list[int]]:
        dataset = PairDataset([path], tokenizer, 300, seed=seed)
        batches = pivots.pair_batches(dataset, 2, 0)
        return [next(batches)[0].tolist() for _ in range(5)]

    assert first(0) == first(0)
    assert len(first(0)[0]) == 4
    assert first(0) != first(1)
    lonely = PairDataset([path], tokenizer, 300, rank=1, world=3)  # its part has none
    assert next(iter(lonely))


def test_a_corpus_without_such_blocks_is_named(tokenizer, tmp_path: Path) -> None:
    dataset = PairDataset([shard(tmp_path, "x = 1\n")], tokenizer, 300)
    with pytest.raises(PivotError, match="no block"):
        next(pivots.pair_batches(dataset, 2, 0))


def test_a_run_with_pivots_learns(run_arguments, tmp_path: Path) -> None:  # noqa: F811
    arguments = [*run_arguments, "--length", "256", "--batch-tokens", "1024"]
    out = ["--out", str(tmp_path), "--tokens", "61440"]
    train.main([*arguments, *out, "--pivot-share", "0.05"])
    logged = [row for row in rows(tmp_path) if "loss" in row]
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert logged[-1]["hinge"] >= 0
    assert logged[-1]["step"] == 60


@pytest.mark.parametrize("share", ["0.06", "-0.1"])
def test_more_than_a_few_batches_are_refused(run_arguments, tmp_path, share, capsys) -> None:  # noqa: F811
    with pytest.raises(SystemExit):
        train.main(
            [*run_arguments, "--out", str(tmp_path), "--tokens", "1", "--pivot-share", share]
        )
    assert "--pivot-share" in capsys.readouterr().err
