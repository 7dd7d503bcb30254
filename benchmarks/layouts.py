"""Which prompt layout suits a model that was trained prefix-first (PSM).

Usage: python -m benchmarks.layouts [--model NAME] [--limit N] [--json]

Compared are, with P the text before the cursor and S what follows it:

- `psm`: `<prefix> P <suffix> S <middle>`, the layout of the training;
- `line`: the cursor's line behind `<middle>`, the lines before it as above (llama.vim's);
- `spm`: `<prefix> <suffix> S <middle> P`: to the model, a middle behind no prefix at all.

For each: `exact_match` of the rest of the line (`lines:tuning`, needs `benchmarks.prepare`), its
paired difference from `psm`, and what typing costs without drafts of the user's next keys: tokens
that a key makes the model read again, `typed_mean` within a line and `enter_mean` for a line break
(the typing trace, nothing accepted). `suffix_gain` is `psm` less the same without any suffix: how
much a model that forgot the suffix would lose, and so how much the comparison can show.

Without `--model`, a tiny checkpoint is trained prefix-first on the standard library (minutes) and
imported as a user would. Token counts hold for any model with a similar vocabulary; exact matches
hold for the model that was measured.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.data import BenchmarkDataError
from benchmarks.harness import parser, report
from benchmarks.quality import Scored, compare, load_suite, run_cases
from benchmarks.trace import Session, TraceError, keystrokes, load_trace, sessions
from completion.prompt import PromptBuilder
from completion.types import Mode, WindowPolicy
from models.generate import common_prefix_length
from models.local import LocalBackend
from models.registry import find, load_manifest
from models.tokenizer import Tokenizer

_SUITE = "lines:tuning"
_STEPS = 300
_VOCABULARY = 1024
_CONTEXT = 2048
_MAX_TOKENS = 48


def layouts(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The layouts of a prefix-first model's template by name, and `no_suffix`.

    Raises:
        BenchmarkDataError: the model was trained with another order.
    """
    match template["sep"]["layout"]:
        case [*begin, prefix, "{prefix}", between, "{suffix}", middle]:
            pass
        case other:
            raise BenchmarkDataError(f"not a prefix-first model; its layout is {' '.join(other)}")
    healed = template["joint"] | {"heal_last_token": True}
    line = [*begin, prefix, "{lines}", between, "{suffix}", middle, "{line}"]
    spm = [*begin, prefix, between, "{suffix}", middle, "{prefix}"]
    without = [*begin, prefix, "{prefix}", between, middle]
    return {
        "psm": template["sep"],
        "line": healed | {"layout": line},
        "spm": healed | {"layout": spm},
        "no_suffix": template["sep"] | {"layout": without},
    }


def reread(tokenizer: Tokenizer, typed: Iterable[Session]) -> dict[str, float]:
    """Tokens of the prompt that a key leaves without a KV cache, were every key to ask the model.

    `tokenizer` has the layout as `joint`.
    """
    within: list[int] = []
    enters: list[int] = []
    for session in typed:
        for place in session.places:
            builder = PromptBuilder(tokenizer, _CONTEXT)
            held: dict[int, list[int]] = {}
            before = "\n".join(session.lines[: place.start])
            after = "".join(f"\n{line}" for line in session.lines[place.end :])
            for number, key in enumerate(keystrokes(session.lines[place.start : place.end])):
                before += key
                prompt = builder.build(
                    before,
                    after,
                    uri="a",
                    window=WindowPolicy(),
                    mode=Mode.JOINT,
                    max_tokens=_MAX_TOKENS,
                )
                same = common_prefix_length(held.get(prompt.slot, []), prompt.ids)
                held[prompt.slot] = prompt.ids
                # The first key of a place comes after a jump, which costs every layout the same.
                if number:
                    kind = enters if key.startswith("\n") else within
                    kind.append(len(prompt.ids) - same)
    return {
        "typed_mean": round(statistics.mean(within), 2),
        "enter_mean": round(statistics.mean(enters), 2),
    }


def measure(weights: Path, limit: int | None, threads: int, seed: int) -> dict[str, Any]:
    """All layouts of one model; see the module for the keys.

    Raises:
        BenchmarkDataError: the suite's files are not there.
        TraceError: the trace's are not.
    """
    manifest = load_manifest(weights)
    cases, typed = load_suite(_SUITE, None, limit, seed), list(sessions(load_trace()))
    scored: dict[str, list[Scored]] = {}
    result: dict[str, Any] = {"model": manifest.name, "n": len(cases)}
    for name, layout in layouts(manifest.template).items():
        with tempfile.TemporaryDirectory(prefix="snowcoder-layouts-") as folder:
            for file in manifest.files:
                (Path(folder) / file).symlink_to(weights.resolve() / file)
            template = manifest.template | {"joint": layout, "sep": layout}
            replace(manifest, template=template).save(Path(folder))
            backend = LocalBackend.load(Path(folder), threads=threads)
            scored[name] = run_cases(backend, cases, _SUITE, as_shown=False, mode=Mode.JOINT)
            right = [one.exact for one in scored[name]]
            found: dict[str, Any] = {"exact_match": round(statistics.mean(right), 4)}
            if name != "no_suffix":
                found |= reread(backend.tokenizer, typed)
        if name != "psm":
            found |= compare(scored["psm"], scored[name], seed=seed)
        result[name] = found
    without = result.pop("no_suffix")
    result["suffix_gain"] = -without["difference"]
    result["suffix_gain_low"] = -without["difference_high"]
    return result


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parser(__doc__)
    options.add_argument("--limit", type=int, help="cursors (default 1000)")
    options.add_argument("--steps", type=int, default=_STEPS, help=f"of training ({_STEPS})")
    arguments = options.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="snowcoder-layouts-") as folder:
        try:
            if arguments.model is None:
                weights = _train(Path(folder), arguments.steps)
            else:
                weights = find(arguments.model)
            result = measure(weights, arguments.limit, arguments.threads, arguments.seed)
        except (BenchmarkDataError, TraceError) as error:
            result = {"skipped": str(error)}
    report(result, arguments.json)
    return 0


def _train(folder: Path, steps: int) -> Path:
    """A tiny prefix-first model, imported; its folder."""
    # Not needed for a model that is there already.
    from benchmarks.trained import QWEN, foreign_tokenizer, prefix_first
    from models.export.importer import import_checkpoint
    from models.export.packing import Precision

    checkpoint = folder / "checkpoint"
    prefix_first(foreign_tokenizer(QWEN, _VOCABULARY), checkpoint, steps)
    import_checkpoint(checkpoint, folder, "prefix-first", Precision.FLOAT)
    return folder / "prefix-first"


if __name__ == "__main__":
    raise SystemExit(main())
