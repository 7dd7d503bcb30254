"""Acceptance and persistence by language and model, from exported Parquet, in plain SQL.

    snowcoder telemetry export --parquet DIR
    python docs/analysis/acceptance.py DIR

Needs only DuckDB. What it prints describes; it does not compare arms (see effect.py).
"""

from __future__ import annotations

import sys

import duckdb

QUERY = """
select language, model, count(*) as offered,
  count(*) filter (visible = 1) as visible,
  round(count(*) filter (resolution = 'accepted') / count(*), 4) as accepted_of_offered,
  round(count(*) filter (resolution = 'accepted' and visible = 1)
    / nullif(count(*) filter (visible = 1), 0), 4) as car,
  round(avg((retained_30 >= 0.67)::int) filter (resolution = 'accepted'), 4) as cpr_30,
  round(avg((retained_300 >= 0.67)::int) filter (resolution = 'accepted'), 4) as cpr_300
from read_parquet($file)
group by language, model order by offered desc
"""


def main(folder: str) -> None:
    """Print one line a language and model, as CSV."""
    rows = duckdb.execute(QUERY, {"file": f"{folder}/suggestions.parquet"})
    print(",".join(column[0] for column in rows.description))
    for row in rows.fetchall():
        print(",".join("" if value is None else str(value) for value in row))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
