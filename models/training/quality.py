"""The quality annotator: choose what the second phase reads.

    python -m models.training.quality --data SHARDS --tokenizer tokenizer.json \
        --model CHECKPOINT --out DIR [--megabytes N] [--seed K]

A linear head on mean-pooled hidden states of the phase-1 model, over the top, the middle and
the bottom of a file (Arctic-SnowCoder, section 3.2; a file's score there is the mean over its
three sections, which for a linear head is the score of the mean state). Positives are files of
the repositories that `sources.toml` lists under `[quality]`, negatives random files of all
others. Whole repositories are held out for the AUC, so the head cannot gain by knowing a
repository again. Writes to DIR the best files up to the byte budget, as shards, and
`report.json`: the AUC and the properties of the 20 best and worst files.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's usual name
from tokenizers import Tokenizer
from torch import Tensor

from models.training.fim import Special
from models.training.model import Model, load_checkpoint
from models.training.shards import Document, read_shards, write_shards
from models.training.sources import SOURCES, quality_repositories

SECTION_CHARACTERS = 1000
SECTION_TOKENS = 256
_HELD_OUT = 0.25
_EDGE = 20


class QualityError(ValueError):
    """The corpus cannot teach the annotator."""


@dataclass(frozen=True, slots=True)
class Head:
    """A linear head on standardised features."""

    weight: Tensor
    bias: float
    mean: Tensor
    scale: Tensor

    def score(self, features: Tensor) -> Tensor:
        """Logits `[files]` of features `[files, hidden]`."""
        return ((features - self.mean) / self.scale) @ self.weight + self.bias


def sections(text: str) -> tuple[str, str, str]:
    """Top, middle and bottom of a file; they overlap or coincide in a short one."""
    middle = max(0, (len(text) - SECTION_CHARACTERS) // 2)
    return (
        text[:SECTION_CHARACTERS],
        text[middle : middle + SECTION_CHARACTERS],
        text[-SECTION_CHARACTERS:],
    )


@torch.no_grad()
def embed(
    model: Model, tokenizer: Tokenizer, texts: Iterable[str], device: str, batch: int = 256
) -> Tensor:
    """Mean final hidden state of each text's three sections, float32 `[texts, hidden]`."""
    model = model.to(device).eval()
    kind = device.split(":")[0]
    rows: list[Tensor] = []

    def flush(part: list[str]) -> None:
        pieces = [piece for text in part for piece in sections(text)]
        encodings = tokenizer.encode_batch_fast(pieces)
        ids = torch.full((len(pieces), SECTION_TOKENS + 1), Special().pad)
        ids[:, 0] = Special().eot
        seen = torch.zeros(len(pieces), SECTION_TOKENS + 1, 1)
        for i, encoding in enumerate(encodings):
            own = encoding.ids[:SECTION_TOKENS]
            ids[i, 1 : len(own) + 1] = torch.tensor(own)
            seen[i, 1 : len(own) + 1] = 1
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            states = model.hidden(ids.to(device)).float()
        seen = seen.to(device)
        pooled = (states * seen).sum(1) / seen.sum(1).clamp(min=1)
        rows.append(pooled.view(len(part), 3, -1).mean(1).cpu())

    part: list[str] = []
    for text in texts:
        part.append(text)
        if len(part) == batch:
            flush(part)
            part = []
    if part:
        flush(part)
    return torch.cat(rows)


def fit(features: Tensor, positive: Tensor, penalty: float = 1e-2, steps: int = 100) -> Head:
    """Logistic regression, both classes weighing the same, with an L2 penalty."""
    mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    x, y = (features - mean) / scale, positive.float()
    weights = torch.where(positive, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    w = torch.zeros(x.shape[1], requires_grad=True)
    b = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([w, b], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimiser.zero_grad()
        each = F.binary_cross_entropy_with_logits(x @ w + b, y, reduction="none")
        value = (weights * each).sum() + penalty * w.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return Head(w.detach(), float(b.detach()), mean, scale)


def auc(scores: Tensor, positive: Tensor) -> float:
    """Probability that a positive scores above a negative; ties count half."""
    order = torch.unique(scores.double(), return_inverse=True)[1]
    counts = torch.bincount(order).double()
    below = counts.cumsum(0) - counts
    rank = (below + (counts + 1) / 2)[order]
    n = float(positive.sum())
    others = float(len(scores) - n)
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * others))


def held_out(repositories: Sequence[str], seed: int) -> set[str]:
    """A quarter of the repositories, at least one, for the AUC."""
    names = sorted(set(repositories))
    return set(random.Random(seed).sample(names, max(1, round(_HELD_OUT * len(names)))))


def properties(document: Document, score: float) -> dict[str, Any]:
    """What may be said of a file without quoting it."""
    lines = document["text"].split("\n")
    code = [line for line in lines if line.strip()]
    return {
        "repo": document["repo"],
        "path": document["path"],
        "score": round(score, 3),
        "bytes": len(document["text"].encode()),
        "lines": len(lines),
        "comment_share": round(sum(x.lstrip().startswith("#") for x in code) / len(code), 3),
        "definitions": sum(x.lstrip().startswith(("def ", "class ")) for x in code),
        "docstring_quotes": document["text"].count('"""'),
        "mean_line": round(sum(map(len, code)) / len(code), 1),
    }


def best(documents: list[Document], scores: Tensor, budget: int) -> Iterator[Document]:
    """The best files up to `budget` bytes, in the order of the corpus."""
    kept, size = [], 0
    for index in scores.argsort(descending=True, stable=True).tolist():
        size += len(documents[index]["text"].encode())
        if size > budget:
            break
        kept.append(index)
    for index in sorted(kept):
        yield documents[index]


def annotate(
    documents: list[Document], features: Tensor, positives: Sequence[str], seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """Scores of all files, and how well the head tells held-out repositories apart.

    Raises:
        QualityError: fewer than two positive or two other repositories have files here.
    """
    repositories = [d["repo"] for d in documents]
    known = set(repositories)
    good = sorted(known & set(positives))
    other = sorted(known - set(positives))
    if len(good) < 2 or len(other) < 2:
        raise QualityError(f"{len(good)} positive and {len(other)} other repositories: too few")
    positive = torch.tensor([r in set(good) for r in repositories])
    away = held_out(good, seed) | held_out(other, seed)
    tested = torch.tensor([r in away for r in repositories])
    head = fit(features[~tested], positive[~tested])
    scores = head.score(features)
    report = {
        "files": len(documents),
        "positive_files": int(positive.sum()),
        "held_out_repositories": len(away),
        "held_out_positive_files": int((positive & tested).sum()),
        "auc_held_out": round(auc(scores[tested], positive[tested]), 4),
        "auc_seen": round(auc(scores[~tested], positive[~tested]), 4),
    }
    return fit(features, positive).score(features), report


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m models.training.quality")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="corpus shards")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="phase-1 checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder for the chosen shards")
    parser.add_argument("--sources", type=Path, default=SOURCES, help="manifest to use")
    parser.add_argument("--megabytes", type=int, default=400, help="budget of text")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out repositories")
    options = parser.parse_args(arguments)
    documents = list(read_shards(options.data))
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    tokenizer.encode_special_tokens = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features = embed(
        load_checkpoint(options.model), tokenizer, (d["text"] for d in documents), device
    )
    scores, report = annotate(
        documents, features, quality_repositories(options.sources), options.seed
    )
    order = scores.argsort(descending=True, stable=True).tolist()
    report["best"] = [properties(documents[i], float(scores[i])) for i in order[:_EDGE]]
    report["worst"] = [properties(documents[i], float(scores[i])) for i in order[-_EDGE:]]
    kept = write_shards(best(documents, scores, options.megabytes * 1_000_000), options.out)
    report["kept"] = {
        "repositories": len(kept),
        "files": sum(int(str(r["files"])) for r in kept),
        "bytes": sum(int(str(r["bytes"])) for r in kept),
    }
    (options.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k not in ("best", "worst")}))


if __name__ == "__main__":
    main()
