"""`snowcoder why`, `snowcoder doctor` and `snowcoder settings-schema`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lsp_server.decisions import FILE_NAME, KEPT, read_file
from lsp_server.paths import state_dir

_JSON = typer.Option("--json", help="Print one JSON object.")


def why(
    last: Annotated[int, typer.Option(min=1, max=KEPT, help="How many decisions.")] = 20,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Say what was decided about the last requests, and by which rule."""
    path = state_dir() / FILE_NAME
    try:
        decisions = read_file(path)[-last:]
    except FileNotFoundError:
        decisions = []
    except OSError as error:
        print(f"snowcoder: cannot read {path}: {error.strerror}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps({"file": str(path), "decisions": decisions}, ensure_ascii=False))
    elif not decisions:
        print("no request was answered yet")
    else:
        Console(highlight=False).print(_table(decisions))


def _table(decisions: list[dict[str, Any]]) -> Table:
    table = Table("time", "where", "trigger", "outcome", "rule", "ms", "why", box=None)
    for row in decisions:
        total = row.get("stages", {}).get("total_ms")
        cells = (
            str(row["time"])[11:19],
            f"{row['file']}:{row['line']}",
            row["trigger"],
            ", ".join([row["outcome"], *row["events"]]),
            row["rule"],
            "" if total is None else f"{total:.0f}",
            row["detail"],
        )
        # Names such as [slug].tsx are no markup.
        table.add_row(*map(escape, cells))
        stages = row.get("stages", {})
        for line in [*_context(stages), *_pivot(stages)]:
            table.add_row("", "", "", "", "", "", escape(line))
    return table


def _context(stages: dict[str, Any]) -> list[str]:
    """What retrieved code was in the prompt, one line a piece, and what it cost."""
    lines = []
    for chunk in stages.get("chunks", []):
        found = ", ".join(f"{name} {score:.2f}" for name, score in chunk["sources"].items())
        place = f"{chunk['file']}:{chunk['line']}"
        lines.append(f"context {place} ({found}; {chunk['tokens']} tokens)")
    gain = stages.get("context_gain")
    expected = "" if gain is None else f", {gain:+.2f} nats expected"
    if lines:
        cost = stages.get("context_cost_ms")
        took = "" if cost is None else f", {cost:.0f} ms to read once"
        lines.append(f"context {stages['context_tokens']} tokens in all{took}{expected}")
    elif rule := stages.get("context_rule"):
        lines.append(f"context none: {rule}{expected}")
    return lines


def _pivot(stages: dict[str, Any]) -> list[str]:
    """Which of two candidates for a block was taken; nothing where there was one."""
    if not (taken := stages.get("pivot")):
        return []
    if taken == "late":
        return ["block: direct; no time for one behind a comment"]
    chosen = "written behind a comment" if taken == "comment" else "direct"
    gain = stages.get("pivot_gain")
    by = "nothing came of the comment" if gain is None else f"{gain:+.2f} a token for the comment"
    return [f"block: {chosen} ({by}; {stages['pivot_ms']:.0f} ms)"]


def doctor(
    model: Annotated[
        str | None, typer.Option(help="Name or folder of weights; the packaged ones by default.")
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Check this installation; what is wrong is said together with the fix."""
    from lsp_server.doctor import examine

    checks = examine(model)
    problems = [check for check in checks if check.level == "problem"]
    if as_json:
        rows = [check.as_dict() for check in checks]
        print(json.dumps({"ok": not problems, "checks": rows}, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        for check in checks:
            line = f"{check.level:8}{check.name:16}{check.detail}"
            console.print(line, markup=False, soft_wrap=True)
            if check.fix:
                console.print(f"{'':24}{check.fix}", markup=False, soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


def settings_schema() -> None:
    """Print the JSON Schema of the settings, for editors."""
    from lsp_server.settings import schema

    print(json.dumps(schema(), indent=2))


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(why)
    app.command()(doctor)
    app.command("settings-schema")(settings_schema)
