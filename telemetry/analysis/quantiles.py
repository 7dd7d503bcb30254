"""Latency quantiles from fixed buckets, so that every engine gives the same number."""

from __future__ import annotations

from ibis.expr.types import Table

BUCKET_US = 5_000
"""Width of a bucket: 5 ms."""
LAST_BUCKET = 400
"""Everything from 2 s on is in one bucket."""


def latency_counts(opportunities: Table, label: str | None = None) -> dict[int, int]:
    """Requests that the model answered, by bucket of their latency.

    Args:
        opportunities: the table of that name.
        label: `experiment=arm` to count only that arm.
    """
    rows = opportunities.filter(opportunities.source == "model")
    if label is not None:
        rows = rows.filter((";" + rows.arms + ";").contains(f";{label};"))
    bucket = (rows.total_us // BUCKET_US).cast("int64")
    counted = rows.group_by(bucket=bucket).aggregate(requests=rows.count()).to_pyarrow()
    counts: dict[int, int] = {}
    for row in counted.to_pylist():
        key = min(row["bucket"], LAST_BUCKET)
        counts[key] = counts.get(key, 0) + row["requests"]
    return counts


def quantile_ms(counts: dict[int, int], share: float) -> float | None:
    """The latency that `share` of the requests stay below, in milliseconds."""
    wanted, seen = share * sum(counts.values()), 0.0
    for bucket in sorted(counts):
        if seen + counts[bucket] >= wanted:
            return (bucket + (wanted - seen) / counts[bucket]) * BUCKET_US / 1000
        seen += counts[bucket]
    return None
