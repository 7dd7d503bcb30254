"""Runs benchmarks and writes what they say into `benchmarks/RESULTS.md`, with plots.

Usage: python -m benchmarks.results [NAME ...]

Without names all of them run, which takes about an hour on a machine with nothing else to do. Every
result is kept in `.cache/bench/results`, and the page shows the latest of each with its date.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import onnxruntime

from benchmarks.prepare import CACHE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RESULTS = CACHE / "results"
_PAGE = Path(__file__).with_name("RESULTS.md")
_PLOTS = Path(__file__).with_name("plots")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One command.

    Attributes:
        title: what it shows.
        arguments: behind `python -m benchmarks.`.
    """

    title: str
    arguments: str

    @property
    def command(self) -> str:
        """As a reader would type it."""
        return f"python -m benchmarks.{self.arguments} --json"


BENCHMARKS = {
    "engine": Benchmark("Engine, side by side with llama.cpp", "engine --against llama.cpp"),
    "latency": Benchmark("Latency of the server", "latency --threads 2"),
    "footprint": Benchmark("What servers cost while they are there", "footprint"),
    "he-single": Benchmark("HumanEval-Infilling, single lines", "quality --suite he-single"),
    "lines": Benchmark(
        "Rest of a line, validation projects", "quality --suite lines:validation --limit 1000"
    ),
    "filters": Benchmark("What is shown, 1000 validation cursors", "filters"),
    "load": Benchmark("Eight editors at once", "load --clients 8"),
}


def run(name: str) -> None:
    """Run a benchmark and keep its JSON.

    Raises:
        CalledProcessError: it failed.
        ValueError: it did not print JSON.
    """
    arguments = BENCHMARKS[name].arguments.split(" ")
    command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:], "--json"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    kept = {"date": date.today().isoformat(), "result": json.loads(ended.stdout)}
    _RESULTS.mkdir(parents=True, exist_ok=True)
    (_RESULTS / f"{name}.json").write_text(json.dumps(kept), encoding="utf-8")


def render(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, from the kept results by name."""
    lines = [
        "# Results",
        "",
        "Written by `make bench` (`python -m benchmarks.results`); what the keys mean is in",
        f"[README.md](README.md). Machine: {_machine()}; ONNX Runtime {onnxruntime.__version__}.",
    ]
    for name, benchmark in BENCHMARKS.items():
        if name not in kept:
            continue
        result = kept[name]["result"]
        lines += ["", f"## {benchmark.title}", "", f"`{benchmark.command}`, {kept[name]['date']}"]
        if "skipped" in result:
            lines += ["", f"Skipped: {result['skipped']}"]
            continue
        if name == "engine":
            lines += ["", "![Engine](plots/engine.svg)", "", *_steps_table(result)]
        if result.get("reliability"):
            lines += ["", "![Reliability of the confidence](plots/reliability.svg)"]
        lines += ["", "| key | value |", "|---|---|"]
        lines += [
            f"| {key} | {_value(value)} |"
            for key, value in result.items()
            if not isinstance(value, list)
        ]
    return "\n".join([*lines, ""])


def _steps_table(result: Mapping[str, Any]) -> list[str]:
    """Milliseconds of each step, per number of threads."""
    rows = ["| step | threads | ours, ms | llama.cpp, ms | ratio |", "|---|---|---|---|---|"]
    for measured in result["runs"]:
        for step, times in {**measured["steps_ms"], **_trace(measured)}.items():
            ours, theirs = times["ours"], times.get("llama.cpp")
            ratio = "" if theirs is None else f"{theirs / ours:.2f}"
            rows.append(
                f"| {step} | {measured['threads']} | {ours:.1f} | {_value(theirs)} | {ratio} |"
            )
    return rows


def _trace(measured: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The typing trace as further steps; llama.cpp with or without drafts, whichever is faster."""
    trace = measured.get("trace")
    if not trace or "llama.cpp" not in trace:
        return {}
    return {
        f"trace_{key}": {
            "ours": trace["ours"][f"{key}_ms"],
            "llama.cpp": min(
                trace[peer][f"{key}_ms"] for peer in ("llama.cpp", "llama.cpp_drafts")
            ),
        }
        for key in ("p50", "p95", "jump_p50")
    }


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items())
    return "" if value is None else str(value)


def _machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, {platform.system()}"


def _pyplot() -> ModuleType:
    """`matplotlib.pyplot` for SVG files; imported late because only the bench extra has it."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "snowcoder"  # the same data give the same file
    return importlib.import_module("matplotlib.pyplot")


def plot_engine(result: Mapping[str, Any], path: Path) -> None:
    """Bars of every step for both engines, one panel a number of threads."""
    plt = _pyplot()
    runs = result["runs"]
    figure, panels = plt.subplots(1, len(runs), figsize=(5 * len(runs), 3.2), squeeze=False)
    for panel, measured in zip(panels[0], runs, strict=True):
        steps = {**measured["steps_ms"], **_trace(measured)}
        for offset, engine in enumerate(("ours", "llama.cpp")):
            times = [step.get(engine, 0.0) for step in steps.values()]
            places = [index + 0.4 * offset for index in range(len(steps))]
            panel.barh(places, times, height=0.38, label=engine)
        panel.set_yticks([index + 0.2 for index in range(len(steps))], list(steps))
        panel.invert_yaxis()
        panel.set_xscale("log")
        panel.set_xlabel("ms (logarithmic)")
        panel.set_title(f"{measured['threads']} thread(s)")
        panel.legend()
    _save(figure, path)


def plot_reliability(result: Mapping[str, Any], path: Path) -> None:
    """Share of exact matches against the mean confidence of each bin, beside the diagonal."""
    plt = _pyplot()
    figure, panel = plt.subplots(figsize=(3.6, 3.6))
    sure, right = zip(*result["reliability"], strict=True)
    panel.plot([0, 1], [0, 1], linestyle="--", color="gray", linewidth=1)
    panel.plot(sure, right, marker="o")
    panel.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share of exact matches")
    known = [
        f"{key} {result[key]:.3f}" for key in ("ece", "brier", "auc") if result.get(key) is not None
    ]
    panel.set_title(", ".join(known), fontsize="medium")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    _pyplot().close(figure)


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 where a benchmark failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args(given).names or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    failed = 0
    for name in names:
        print(BENCHMARKS[name].command, file=sys.stderr)
        try:
            run(name)
        except (subprocess.CalledProcessError, ValueError) as error:
            print(f"{name} failed: {error}", file=sys.stderr)
            failed = 1
    kept = {path.stem: json.loads(path.read_text()) for path in _RESULTS.glob("*.json")}
    if "engine" in kept and "runs" in kept["engine"]["result"]:
        plot_engine(kept["engine"]["result"], _PLOTS / "engine.svg")
    if "filters" in kept and kept["filters"]["result"].get("reliability"):
        plot_reliability(kept["filters"]["result"], _PLOTS / "reliability.svg")
    _PAGE.write_text(render(kept), encoding="utf-8")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
