import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stats import cluster_interval, edit_similarity, levenshtein, percentile


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_levenshtein(left, right, distance):
    assert levenshtein(left, right) == levenshtein(right, left) == distance


@given(st.text(max_size=12), st.text(max_size=12))
def test_edit_similarity_is_a_share(left, right):
    similarity = edit_similarity(left, right)
    assert 0.0 <= similarity <= 1.0
    assert (similarity == 1.0) == (left == right)


def test_percentile():
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(map(float, range(101))), 0.95) == 95.0


def test_interval_is_seeded_and_holds_the_mean():
    rng = random.Random(1)
    scores = [float(rng.random() < 0.3) for _ in range(400)]
    clusters = [f"file{index % 80}" for index in range(400)]
    low, high = cluster_interval(scores, clusters, seed=5)
    assert (low, high) == cluster_interval(scores, clusters, seed=5)
    assert low < sum(scores) / len(scores) < high


def test_clusters_widen_the_interval():
    # Ten files whose cursors all agree carry ten observations, not a thousand.
    scores = [float(index % 10 < 5) for index in range(1000)]
    dependent = cluster_interval(scores, [str(index % 10) for index in range(1000)])
    independent = cluster_interval(scores, [str(index) for index in range(1000)])
    assert dependent[1] - dependent[0] > 4 * (independent[1] - independent[0])


def test_interval_needs_scores():
    with pytest.raises(ValueError, match="at least one"):
        cluster_interval([], [])
    with pytest.raises(ValueError, match="one cluster per score"):
        cluster_interval([1.0], [])
