"""An experiment's primary metric by hand: retained characters per active hour, users as clusters.

    snowcoder telemetry export --parquet DIR
    python docs/analysis/effect.py DIR EXPERIMENT TREATMENT [CONTROL]

Needs pandas, pyarrow and NumPy, and nothing of SnowCoder. The interval is the delta method for
one look with the normal quantile (the report uses Welch's t, which is a little wider). For
experiments that randomise users.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd


def clusters(folder: str, experiment: str) -> pd.DataFrame:
    """One row a user who met one arm: sums from the day of exposure on."""
    exposures = pd.read_parquet(f"{folder}/exposures.parquet")
    exposures = exposures[exposures["experiment"] == experiment]
    met = exposures.groupby("user_id").agg(
        arm=("arm", "min"), arms=("arm", "nunique"), since=("day", "min")
    )
    met = met[met["arms"] == 1]
    days = pd.read_parquet(f"{folder}/user_days.parquet").merge(met, on="user_id")
    days = days[days["day"] >= days["since"]]
    days["hours"] = days["active_us"] / 3.6e9
    return days.groupby(["user_id", "arm"])[["retained_chars", "hours"]].sum().reset_index()


def ratio(arm: pd.DataFrame) -> tuple[float, float]:
    """Ratio of sums, and its variance by the delta method."""
    x, y = arm["retained_chars"].to_numpy(), arm["hours"].to_numpy()
    value = x.sum() / y.sum()
    linear = (x - value * y) / y.mean()
    return float(value), float(linear.var(ddof=1) / len(x))


def main(folder: str, experiment: str, treatment: str, control: str = "control") -> None:
    """Print the two values, the difference and its 95 % interval as JSON."""
    users = clusters(folder, experiment)
    before, before_variance = ratio(users[users["arm"] == control])
    after, after_variance = ratio(users[users["arm"] == treatment])
    half = 1.959964 * np.sqrt(before_variance + after_variance)
    difference = after - before
    print(
        json.dumps(
            {
                "control": before,
                "treatment": after,
                "difference": difference,
                "low": difference - half,
                "high": difference + half,
            }
        )
    )


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
