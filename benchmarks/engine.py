"""Our inference engine side by side with llama.cpp on the same weights.

Usage: python -m benchmarks.engine [--against llama.cpp] [--model PATH] [--json]

Both run the same token ids with the same stop rules and threads, in turns. Ratios are llama.cpp's
time divided by ours, each the worse of one and two threads. llama.cpp runs with the flags that are
fastest here. Needs the `bench` extra; the machine should have nothing else to do. With a published
shape's name as `--model`, what is measured is that of `benchmarks.shapes`, at 8 and 4 bits.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.bandwidth import read_bandwidth
from benchmarks.model_calls import Call, record
from benchmarks.replay import Cause
from benchmarks.stats import percentile
from benchmarks.trace import TraceError, load_trace, sessions
from models.backend import GenerateRequest
from models.local import LocalBackend
from models.registry import find, load_manifest
from models.session import KVCache, Logits, ModelSession

_CHUNK = 128
_PAUSE_S = 0.2
"""After a turn: threads that spin would slow down the other engine."""
_ROUNDS = 7
_LONGEST = 1100
"""Tokens that are read while single steps are timed."""
_JUMPS = (Cause.OPEN, Cause.JUMP)


class TokenSequence(Protocol):
    """What is timed: ours or llama.cpp's."""

    def truncate(self, length: int) -> None:
        """Forget everything behind the first `length` tokens."""
        ...

    def append(self, ids: Sequence[int], n_logits: int) -> Logits:
        """Append tokens; the logits of the last ones."""
        ...


class OurSequence:
    """One KV cache of our session, prefilled in chunks as the engine does it."""

    def __init__(self, session: ModelSession) -> None:
        self._session = session
        self._cache: KVCache = session.new_cache()

    def truncate(self, length: int) -> None:
        """See `TokenSequence`."""
        self._cache.truncate(length)

    def append(self, ids: Sequence[int], n_logits: int) -> Logits:
        """See `TokenSequence`."""
        while len(ids) > _CHUNK:
            self._session.forward(self._cache, ids[:_CHUNK])
            ids = ids[_CHUNK:]
        return self._session.forward(self._cache, ids, n_logits)


def _cases(ids: Sequence[int]) -> dict[str, tuple[int, int, int]]:
    """Name to tokens in the cache, tokens to append, logits wanted."""
    cases = {f"prefill_{n}": (0, n, 1) for n in (256, 1024) if n <= len(ids)}
    cases |= {f"decode_{n}": (n, 1, 1) for n in (256, 512, 1024) if n < len(ids)}
    return cases | {f"verify_{n}": (512, n, n) for n in (4, 8) if 512 + n <= len(ids)}


def time_steps(
    engines: dict[str, TokenSequence], ids: Sequence[int], rounds: int = _ROUNDS
) -> dict[str, dict[str, float]]:
    """Median milliseconds of each case for each engine, which take turns.

    Returns:
        Case to engine to milliseconds.
    """
    times: dict[str, dict[str, float]] = {}
    for case, (past, new, wanted) in _cases(ids).items():
        samples: dict[str, list[float]] = {name: [] for name in engines}
        for engine in engines.values():
            engine.truncate(0)
            if past:
                engine.append(ids[:past], 1)
        for _ in range(rounds):
            for name, engine in engines.items():
                for repetition in range(2 if new > 64 else 8):
                    engine.truncate(past)
                    started = time.perf_counter()
                    engine.append(ids[past : past + new], wanted)
                    if repetition:  # the first one wakes the threads
                        samples[name].append((time.perf_counter() - started) * 1e3)
                time.sleep(_PAUSE_S)
        times[case] = {name: statistics.median(values) for name, values in samples.items()}
    return times


Generate = Callable[[Call], tuple[tuple[int, ...], float]]
"""Runs a call; returns the token ids and the milliseconds that it took."""


def play(
    engines: dict[str, Generate], recorded: Sequence[Sequence[Call]]
) -> dict[str, list[tuple[tuple[int, ...], float]]]:
    """Play recorded calls, one file at a time, through engines that take turns."""
    played: dict[str, list[tuple[tuple[int, ...], float]]] = {name: [] for name in engines}
    for calls in recorded:
        for name, generate in engines.items():
            played[name] += [generate(call) for call in calls]
            time.sleep(_PAUSE_S)
    return played


def summarise_trace(
    calls: Sequence[Call], played: dict[str, list[tuple[tuple[int, ...], float]]]
) -> dict[str, Any]:
    """Percentiles per engine, what drafts gain us, and whether they changed anything."""
    result: dict[str, Any] = {}
    for name, results in played.items():
        every = [milliseconds for _, milliseconds in results]
        jumps = [ms for call, ms in zip(calls, every, strict=True) if call.cause in _JUMPS]
        result[name] = {
            "p50_ms": percentile(every, 0.5),
            "p95_ms": percentile(every, 0.95),
            "jump_p50_ms": percentile(jumps, 0.5),
        }
    typing = [index for index, call in enumerate(calls) if call.cause not in _JUMPS]
    spent = {name: sum(played[name][i][1] for i in typing) for name in ("ours", "ours_no_drafts")}
    same = [a[0] == b[0] for a, b in zip(played["ours"], played["ours_no_drafts"], strict=True)]
    result["draft_gain"] = spent["ours_no_drafts"] / spent["ours"] if typing else None
    result["identical_share"] = sum(same) / len(same) if same else None
    result["model_calls"] = len(calls)
    return result


def bandwidth_share(
    backend: LocalBackend, weight_bytes: int, step_ms: float, past: int, threads: int
) -> float:
    """Share of the read bandwidth that a decode step uses: 1 is the limit of this machine."""
    needed = weight_bytes + past * backend.session.new_cache().token_bytes
    return needed / read_bandwidth(threads) / (step_ms / 1e3)


def cancel_times(backend: LocalBackend, ids: Sequence[int], trials: int = 40) -> list[float]:
    """Milliseconds from cancelling a request to the engine being free, at any moment of it."""
    generator = random.Random(0)
    times = []
    with ThreadPoolExecutor(1) as pool:
        for trial in range(trials):
            request = GenerateRequest(list(ids[:_LONGEST]), max_tokens=64, max_lines=0)
            backend.forget(request.cache_key)
            running = pool.submit(backend.generate, request)
            # Half of them in the prefill, half where decoding will be.
            time.sleep(generator.uniform(0.005, 0.1) if trial % 2 else generator.uniform(0.4, 0.8))
            cancelled = time.perf_counter()
            request.cancel.set()
            running.result()
            times.append((time.perf_counter() - cancelled) * 1e3)
    return times


def _ours(backend: LocalBackend, drafts: bool) -> Generate:
    # A key of its own: the runs with and without drafts must not share a KV cache.
    prefix = "drafts" if drafts else "plain"

    def generate(call: Call) -> tuple[tuple[int, ...], float]:
        key = f"{prefix} {call.request.cache_key}"
        request = replace(call.request, drafts=drafts, cache_key=key)
        started = time.perf_counter()
        result = backend.generate(request)
        return result.token_ids, (time.perf_counter() - started) * 1e3

    return generate


def measure(
    weights: Path, threads: int, *, against: str | None, files: int | None
) -> dict[str, Any]:
    """Everything for one number of threads.

    Raises:
        WeightsError: the weights cannot be read.
        PeerError: llama.cpp failed.
    """
    backend = LocalBackend.load(weights, threads=threads)
    backend.warm_up()
    manifest = load_manifest(weights)
    generator = np.random.default_rng(0)
    length = min(_LONGEST, backend.context_length)
    ids = generator.integers(300, backend.tokenizer.vocab_size, length).tolist()
    steps: dict[str, TokenSequence] = {"ours": OurSequence(backend.session)}
    trace: dict[str, Generate] = {
        "ours": _ours(backend, drafts=True),
        "ours_no_drafts": _ours(backend, drafts=False),
    }
    result: dict[str, Any] = {"threads": threads}
    with tempfile.TemporaryDirectory() as folder:
        if against is not None:
            from benchmarks import llama_setup

            peer = llama_setup.fastest(weights, Path(folder), threads, ids)
            steps["llama.cpp"] = peer.sequence
            trace["llama.cpp"] = peer.generate(backend.tokenizer, drafts=False)
            trace["llama.cpp_drafts"] = peer.generate(backend.tokenizer, drafts=True)
            result["llama.cpp"] = {
                "flags": asdict(peer.flags),
                "failed_flags": [asdict(flags) for flags in peer.failed],
                "system": peer.system_info,
            }
        result["steps_ms"] = times = time_steps(steps, ids)
        weight_bytes = sum(entry.bytes for entry in manifest.files.values())
        step_ms = times["decode_512"]["ours"]
        result["cancel_p95_ms"] = percentile(cancel_times(backend, ids), 0.95)
        result["bandwidth_share"] = bandwidth_share(backend, weight_bytes, step_ms, 512, threads)
        try:
            recorded = record(backend, list(sessions(load_trace()))[:files])
        except TraceError as error:
            result["trace_skipped"] = str(error)
        else:
            calls = [call for one in recorded for call in one]
            result["trace"] = summarise_trace(calls, play(trace, recorded))
    return result


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """llama.cpp's times divided by ours; on the trace, its better time with or without drafts."""
    if "llama.cpp" not in result:
        return {}
    found = {
        f"{case}_ratio": times["llama.cpp"] / times["ours"]
        for case, times in result["steps_ms"].items()
    }
    if trace := result.get("trace"):
        for key, name in (("p50", "trace_p50"), ("p95", "trace_p95"), ("jump_p50", "jump")):
            theirs = min(trace[peer][f"{key}_ms"] for peer in ("llama.cpp", "llama.cpp_drafts"))
            found[f"{name}_ratio"] = theirs / trace["ours"][f"{key}_ms"]
    return found


def worst(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The keys of the report: each the worse of all numbers of threads."""
    rows = []
    for result in results:
        trace = result.get("trace", {})
        own = {key: trace.get(key) for key in ("draft_gain", "identical_share")}
        rows.append({**ratios(result), "bandwidth_share": result["bandwidth_share"], **own})
    report: dict[str, Any] = {}
    for key in rows[0]:
        values = [row[key] for row in rows if row[key] is not None]
        report[key] = round(min(values), 3) if values else None
    cancel = [value for result in results if (value := result.get("cancel_p95_ms")) is not None]
    report["cancel_p95_ms"] = round(max(cancel), 1) if cancel else None
    return report | {"runs": list(results)}


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", choices=["llama.cpp"], help="the peer; without, only ours")
    parser.add_argument(
        "--model", help="name or folder of a model, or a shape of benchmarks.shapes"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--files", type=int, help="only so many files of the trace")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args(given)
    from benchmarks import shapes  # which needs this module

    if arguments.model in shapes.CONFIGS:
        given = [arguments.model, "--threads", str(max(arguments.threads))]
        given += ["--peer"] * bool(arguments.against) + ["--json"] * arguments.json
        return shapes.main(given)
    weights = find(arguments.model)
    results = []
    for threads in arguments.threads:
        print(f"{threads} thread(s)", file=sys.stderr)
        results.append(measure(weights, threads, against=arguments.against, files=arguments.files))
    report = worst(results)
    if arguments.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            print(f"{key:22} {json.dumps(value, indent=2) if key == 'runs' else value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
