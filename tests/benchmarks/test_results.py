import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks import results

STEPS = {"prefill_256": {"ours": 50.0, "llama.cpp": 200.0}, "decode_512": {"ours": 5.0}}
TRACE = {
    "ours": {"p50_ms": 20.0, "p95_ms": 100.0, "jump_p50_ms": 90.0},
    "llama.cpp": {"p50_ms": 40.0, "p95_ms": 300.0, "jump_p50_ms": 250.0},
    "llama.cpp_drafts": {"p50_ms": 50.0, "p95_ms": 200.0, "jump_p50_ms": 240.0},
}
FILTERS = {
    "auc": 0.91,
    "ece": 0.02,
    "brier": None,
    "reliability": [[0.1, 0.05], [0.5, 0.6], [0.9, 0.95]],
}
ENGINE = {"decode_512_ratio": 1.25, "runs": [{"threads": 2, "steps_ms": STEPS, "trace": TRACE}]}


def kept(**found):
    return {
        name.replace("_", "-"): {"date": "2026-01-02", "result": r} for name, r in found.items()
    }


def test_the_page_has_every_result_with_its_command_and_date():
    page = results.render(kept(latency={"p50_ms": 34.567, "rss_mb": None}, engine=ENGINE))
    assert "`python -m benchmarks.latency --threads 2 --json`, 2026-01-02" in page
    assert "| p50_ms | 34.57 |" in page
    assert "| prefill_256 | 2 | 50.0 | 200 | 4.00 |" in page
    assert "| trace_p95 | 2 | 100.0 | 200 | 2.00 |" in page, "the peer's better time counts"
    assert "| decode_512 | 2 | 5.0 |  |  |" in page
    assert "HumanEval" not in page


def test_a_skipped_benchmark_says_why():
    assert "Skipped: no data" in results.render(kept(he_single={"skipped": "no data"}))


def test_reliability_is_shown_where_it_was_measured():
    link = "(plots/reliability.svg)"
    assert link in results.render(kept(filters=FILTERS))
    assert link not in results.render(kept(filters=FILTERS | {"reliability": []}))


@pytest.mark.parametrize(
    ("plot", "result"),
    [(results.plot_engine, ENGINE), (results.plot_reliability, FILTERS)],
)
def test_a_plot_is_an_image_and_the_same_each_time(plot, result, tmp_path):
    pytest.importorskip("matplotlib")
    paths = [tmp_path / name / "plot.svg" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        plot(result, path)
    assert ElementTree.parse(paths[0]).getroot().tag.endswith("svg")
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        results.main(["nonsense"])
    assert "no benchmark nonsense" in capsys.readouterr().err
