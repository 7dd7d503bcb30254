import json
import shutil

import pytest

from models import library
from models.errors import WeightsError
from models.registry import DEFAULT_MODEL, find


@pytest.fixture
def imported(tmp_path, monkeypatch, tiny_weights):
    """A library of two models, `a` and `b`."""
    monkeypatch.setenv("SNOWCODER_DATA", str(tmp_path))
    for name in "ab":
        shutil.copytree(tiny_weights, tmp_path / "models" / name)
    return tmp_path / "models"


def test_the_packaged_model_is_in_use_at_first(imported):
    assert library.used() == DEFAULT_MODEL
    assert [one.name for one in library.installed()] == [DEFAULT_MODEL, "a", "b"]
    assert [one.used for one in library.installed()] == [True, False, False]


def test_use_and_rollback_walk_through_the_history(imported):
    library.use("a")
    library.use("b")
    library.use("b")
    assert find() == find("") == imported / "b"
    assert library.rollback() == "a"
    assert find() == imported / "a"
    assert library.rollback() == DEFAULT_MODEL
    with pytest.raises(WeightsError, match="no model was in use before"):
        library.rollback()


def test_rollback_skips_what_is_gone(imported):
    library.use("a")
    library.use("b")
    shutil.rmtree(imported / "a")
    assert library.rollback() == DEFAULT_MODEL


def test_a_model_in_use_that_is_gone_is_named(imported):
    library.use("a")
    shutil.rmtree(imported / "a")
    with pytest.raises(WeightsError, match=r"the model in use, a, is gone.*use snowcoder-88m"):
        find()


def test_unknown_models_cannot_be_used(imported):
    with pytest.raises(WeightsError, match="there are: snowcoder-88m, a, b"):
        library.use("c")
    with pytest.raises(WeightsError, match="there are"):
        library.use("../models/a")


def test_a_damaged_model_is_listed_with_its_error_and_not_used(imported):
    (imported / "a" / "manifest.json").write_text("{")
    one = next(one for one in library.installed() if one.name == "a")
    assert one.manifest is None
    assert "not valid JSON" in one.error
    with pytest.raises(WeightsError, match="not valid JSON"):
        library.use("a")


def test_an_unfinished_import_is_no_model(imported, tiny_weights):
    shutil.copytree(tiny_weights, imported / "c.partial")
    assert "c.partial" not in [one.name for one in library.installed()]


@pytest.mark.parametrize("content", ["{", "{}", "[1]", ""])
def test_a_damaged_history_means_the_packaged_model(imported, content):
    (imported / "history.json").write_text(content)
    assert library.used() == DEFAULT_MODEL


def test_the_history_does_not_grow_without_end(imported):
    for _ in range(30):
        library.use("a")
        library.use("b")
    assert len(json.loads((imported / "history.json").read_text())) <= 20
    assert library.used() == "b"
