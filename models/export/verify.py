"""How the quantised weights differ from the checkpoint in float32.

The reference is `transformers`, which shares no code with the graph; both
sides decode through `models.generate`, so the comparison is of numbers alone.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging as transformers_logging

from models.backend import GenerateRequest
from models.errors import WeightsError
from models.generate import decode_greedily
from models.registry import load_manifest
from models.session import KVCache, ModelSession
from models.tokenizer import Tokenizer
from models.training.cursors import Cursor

Logits = NDArray[np.float32]
_CHUNK = 128
_PREFIX_TOKENS = 1200
_SUFFIX_TOKENS = 450


class Sequencer(Protocol):
    """One token sequence that a model appends to."""

    def restart(self) -> None:
        """Begin a new sequence."""
        ...

    def append(self, ids: Sequence[int], n_logits: int) -> Logits:
        """Append tokens; logits `[n_logits, vocab]` of the last ones, valid until the next call."""
        ...


class QuantizedSequencer:
    """The exported graph, as it is served."""

    def __init__(self, weights_dir: Path) -> None:
        """Load the graph of a weights directory."""
        self._session = ModelSession(weights_dir, load_manifest(weights_dir))
        self._cache: KVCache = self._session.new_cache()

    def restart(self) -> None:
        """Begin a new sequence."""
        self._cache.truncate(0)

    def append(self, ids: Sequence[int], n_logits: int) -> Logits:
        """See `Sequencer`."""
        return self._session.forward(self._cache, ids, n_logits)


class ReferenceSequencer:
    """The checkpoint in PyTorch float32."""

    def __init__(self, checkpoint: Path) -> None:
        """Load a Hugging Face directory of safetensors; no code of the checkpoint's runs."""
        transformers_logging.disable_progress_bar()
        self._model = AutoModelForCausalLM.from_pretrained(
            str(checkpoint),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        ).eval()
        # The argument was renamed; the old name warns where the new one is known.
        known = inspect.signature(self._model.forward).parameters
        self._past_name = "cache" if "cache" in known else "past_key_values"
        self._past = DynamicCache()

    def restart(self) -> None:
        """Begin a new sequence."""
        self._past = DynamicCache()

    @torch.inference_mode()
    def append(self, ids: Sequence[int], n_logits: int) -> Logits:
        """See `Sequencer`."""
        result = self._model(
            torch.tensor([list(ids)]),
            use_cache=True,
            logits_to_keep=n_logits,
            **{self._past_name: self._past},
        )
        logits: Logits = result.logits[0].numpy()
        return logits


def _label_nll(logits: Logits, labels: Sequence[int]) -> float:
    """Summed negative log-likelihood in nats."""
    largest = logits.max(axis=1, keepdims=True)
    norm = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0]
    return float((norm - logits[np.arange(len(labels)), labels]).sum())


def compare_logits(
    quantized: Sequencer, reference: Sequencer, sequences: Iterable[Sequence[int]]
) -> dict[str, float | int]:
    """Teacher-forced comparison on token sequences.

    Returns:
        `tokens`, `logit_error_max`, `logit_error_mean` (absolute), `top1_agreement`,
        `nll_float32`, `nll_rq8` and `nll_delta` (nats per token).
    """
    tokens = predicted = agreed = 0
    error_max = error_sum = nll_quantized = nll_reference = 0.0
    for ids in sequences:
        quantized.restart()
        reference.restart()
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            ours = quantized.append(chunk, len(chunk))
            theirs = reference.append(chunk, len(chunk))
            error = np.abs(ours - theirs)
            error_max = max(error_max, float(error.max()))
            error_sum += float(error.mean(dtype=np.float64)) * len(chunk)
            agreed += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
            labels = ids[start + 1 : start + 1 + len(chunk)]
            nll_quantized += _label_nll(ours[: len(labels)], labels)
            nll_reference += _label_nll(theirs[: len(labels)], labels)
            tokens += len(chunk)
            predicted += len(labels)
    if not predicted:
        raise WeightsError("nothing to evaluate: every token sequence is shorter than two tokens")
    return {
        "tokens": tokens,
        "logit_error_max": error_max,
        "logit_error_mean": error_sum / tokens,
        "top1_agreement": agreed / tokens,
        "nll_float32": nll_reference / predicted,
        "nll_rq8": nll_quantized / predicted,
        "nll_delta": (nll_quantized - nll_reference) / predicted,
    }


def complete_line(model: Sequencer, tokenizer: Tokenizer, cursor: Cursor, max_tokens: int) -> str:
    """Rest of the cursor's line in the joint layout with token healing."""
    special = tokenizer.special
    prefix = tokenizer.encode(cursor.prefix)[-_PREFIX_TOKENS:]
    suffix = tokenizer.encode(cursor.suffix)[:_SUFFIX_TOKENS]
    heal = tokenizer.token_bytes(prefix.pop()) if prefix else b""
    prompt = [special.eot, special.suffix, *suffix, special.prefix, *prefix]
    model.restart()
    for start in range(0, len(prompt), _CHUNK):
        logits = model.append(prompt[start : start + _CHUNK], 1)
    request = GenerateRequest(prompt, heal, max_tokens)

    def step(ids: Sequence[int], back: int) -> Logits:
        assert back == 0, "nothing was drafted"
        return model.append(ids, len(ids))

    return decode_greedily(request, tokenizer, logits, step, max_tokens).text


def compare_lines(
    quantized: Sequencer,
    reference: Sequencer,
    tokenizer: Tokenizer,
    cursors: Iterable[Cursor],
    max_tokens: int = 48,
) -> dict[str, float | int]:
    """Exact match of the rest of the line, greedy, for both models.

    Returns:
        `cursors`, `line_em_float32`, `line_em_rq8`, and `line_identical`: the share of
        completions that are the same in both.
    """
    count = hits_quantized = hits_reference = identical = 0
    for cursor in cursors:
        wanted = cursor.middle.split("\n", 1)[0]
        ours = complete_line(quantized, tokenizer, cursor, max_tokens)
        theirs = complete_line(reference, tokenizer, cursor, max_tokens)
        hits_quantized += ours == wanted
        hits_reference += theirs == wanted
        identical += ours == theirs
        count += 1
    if not count:
        raise WeightsError("nothing to evaluate: the cursor file is empty")
    return {
        "cursors": count,
        "line_em_float32": hits_reference / count,
        "line_em_rq8": hits_quantized / count,
        "line_identical": identical / count,
    }


def _json_lines(path: Path) -> list[Any]:
    try:
        with path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from error


def verify_export(
    checkpoint: Path,
    weights_dir: Path,
    ids_file: Path | None = None,
    cursors_file: Path | None = None,
) -> dict[str, float | int]:
    """Compare an export with its checkpoint.

    Args:
        checkpoint: Hugging Face directory that was exported.
        weights_dir: the export.
        ids_file: JSON lines, a list of token ids each (at most the context length).
        cursors_file: JSON lines, objects with `prefix`, `suffix`, `middle`.

    Returns:
        The union of `compare_logits` and `compare_lines`, for the files given.

    Raises:
        WeightsError: a file cannot be read or holds nothing to evaluate.
    """
    quantized = QuantizedSequencer(weights_dir)
    reference = ReferenceSequencer(checkpoint)
    report: dict[str, float | int] = {}
    if ids_file is not None:
        report |= compare_logits(quantized, reference, _json_lines(ids_file))
    if cursors_file is not None:
        tokenizer = Tokenizer.from_file(weights_dir / load_manifest(weights_dir).tokenizer)
        keys = ("prefix", "suffix", "middle")
        try:
            cursors = [
                Cursor(**{key: row[key] for key in keys}) for row in _json_lines(cursors_file)
            ]
        except (KeyError, TypeError) as error:
            raise WeightsError(f"{cursors_file} is malformed: {error!r}") from error
        report |= compare_lines(quantized, reference, tokenizer, cursors)
    return report
