import json
import shutil

import pytest

from models.errors import TokenizerError, WeightsError
from models.local import LocalBackend
from models.registry import FileEntry, find, load_manifest, verify


@pytest.fixture
def weights(tiny_weights, tmp_path):
    """A copy that a test may damage."""
    copy = tmp_path / "weights"
    shutil.copytree(tiny_weights, copy)
    return copy


def edit_manifest(weights, **changes):
    path = weights / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_untouched_weights_pass(weights):
    manifest = verify(weights)
    assert manifest.name == "tiny"
    assert set(manifest.files) == {"model.onnx", "model.data", "tokenizer.json"}
    assert manifest.languages == ["python"]


@pytest.mark.parametrize("name", ["model.onnx", "model.data", "tokenizer.json"])
def test_one_flipped_bit_is_found_and_prevents_serving(weights, name):
    flip_bit(weights / name)
    for check in (verify, LocalBackend.load):
        with pytest.raises(WeightsError, match=rf"{name} was altered.*reinstall"):
            check(weights)


@pytest.mark.parametrize("name", ["model.onnx", "model.data", "tokenizer.json"])
def test_a_missing_file_is_named(weights, name):
    (weights / name).unlink()
    for check in (verify, LocalBackend.load):
        with pytest.raises(WeightsError, match=rf"{name} is missing"):
            check(weights)


def test_a_truncated_file_is_found(weights):
    path = weights / "model.data"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"model\.data was altered"):
        verify(weights)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format_version": 1}'])
def test_a_malformed_manifest_is_refused(weights, text):
    (weights / "manifest.json").write_text(text)
    with pytest.raises(WeightsError, match=r"manifest\.json"):
        load_manifest(weights)


def test_a_newer_format_is_refused(weights):
    edit_manifest(weights, format_version=99)
    with pytest.raises(WeightsError, match="another version"):
        load_manifest(weights)


def test_a_file_outside_the_directory_is_refused(weights):
    entry = {"sha256": "0" * 64, "bytes": 1}
    edit_manifest(weights, files={"../secret": entry})
    with pytest.raises(WeightsError, match="outside"):
        load_manifest(weights)


def test_a_tokenizer_of_other_weights_is_refused(weights):
    special = load_manifest(weights).special_ids
    edit_manifest(weights, special_ids={**special, "<|eom|>": 77})
    with pytest.raises(TokenizerError, match="does not fit"):
        LocalBackend.load(weights)


def test_find_takes_a_path(weights):
    assert find(str(weights)) == weights


@pytest.mark.parametrize("nothing", [None, ""])
def test_find_without_a_name_is_the_packaged_model(monkeypatch, tmp_path, nothing):
    packaged = tmp_path / "weights" / "snowcoder-88m"
    packaged.mkdir(parents=True)
    monkeypatch.setattr("models.registry.files", lambda package: tmp_path)
    with pytest.raises(WeightsError, match="packaged model snowcoder-88m is missing"):
        find(nothing)
    (packaged / "manifest.json").write_text("{}")
    assert find(nothing) == find("snowcoder-88m") == packaged


def test_find_explains_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match=r"manifest\.json"):
        find(str(tmp_path / "nothing"))


def test_entry_is_the_sha256_of_the_content(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert FileEntry.of(path).sha256.startswith("ba7816bf8f01cfea")
    assert FileEntry.of(path).bytes == 3
