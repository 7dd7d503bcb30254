import json
import multiprocessing
import shutil
import subprocess
import sys

import numpy as np
import pytest

from models.backend import GenerateRequest
from models.errors import WeightsError
from models.local import LocalBackend
from models.prepack import PackedWeights, main
from models.registry import load_manifest
from models.session import ModelSession

PROMPT = np.random.default_rng(0).integers(20, 600, 200).tolist()


@pytest.fixture(scope="module")
def built(tiny_weights, tmp_path_factory):
    """A cache folder with the packed weights of the tiny model; do not alter it."""
    cache = tmp_path_factory.mktemp("packed")
    PackedWeights(load_manifest(tiny_weights), cache).build(tiny_weights)
    return cache


@pytest.fixture
def cache(built, tmp_path):
    return shutil.copytree(built, tmp_path / "cache")


def folder_of(weights, cache):
    return PackedWeights(load_manifest(weights), cache).folder


def output(backend):
    result = backend.generate(GenerateRequest(PROMPT, max_tokens=12, max_lines=0))
    return result.token_ids, result.logprobs


def test_packed_weights_give_the_same_logits_to_the_bit(tiny_weights, built):
    manifest = load_manifest(tiny_weights)
    plain = ModelSession(tiny_weights, manifest, threads=1)
    packed = ModelSession(tiny_weights, manifest, 1, folder_of(tiny_weights, built))
    for rows in (1, 2, 40):
        expected = plain.forward(plain.new_cache(), PROMPT[:rows], rows).copy()
        given = packed.forward(packed.new_cache(), PROMPT[:rows], rows)
        np.testing.assert_array_equal(given, expected)


def test_a_backend_takes_them_where_they_are(tiny_weights, built, monkeypatch):
    used = []
    load = ModelSession.__init__

    def noted(self, weights_dir, manifest, threads=2, packed=None):
        used.append(packed)
        load(self, weights_dir, manifest, threads, packed)

    monkeypatch.setattr(ModelSession, "__init__", noted)
    backend = LocalBackend.load(tiny_weights, threads=1, packed_cache=built)
    assert used == [folder_of(tiny_weights, built)]
    assert output(backend) == output(LocalBackend.load(tiny_weights, threads=1))


def test_nothing_is_used_or_made_before_it_was_built(tiny_weights, tmp_path):
    backend = LocalBackend.load(tiny_weights, threads=1, packed_cache=tmp_path / "none")
    assert output(backend)[0]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.data", "digests.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damaged_files_are_dropped_and_the_original_serves(tiny_weights, cache, name, damage):
    packed = PackedWeights(load_manifest(tiny_weights), cache)
    path = packed.folder / name
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    else:
        path.unlink()
    backend = LocalBackend.load(tiny_weights, threads=1, packed_cache=cache)
    assert output(backend) == output(LocalBackend.load(tiny_weights, threads=1))
    assert not packed.exists
    packed.build(tiny_weights)
    packed.verify()


def test_an_altered_tokenizer_is_noticed_beside_packed_weights(tiny_weights, built, tmp_path):
    copy = shutil.copytree(tiny_weights, tmp_path / "weights")
    path = copy / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    with pytest.raises(WeightsError, match=r"tokenizer\.json was altered"):
        LocalBackend.load(copy, threads=1, packed_cache=built)


def test_packed_weights_serve_when_the_original_graph_is_gone(tiny_weights, built, tmp_path):
    copy = shutil.copytree(tiny_weights, tmp_path / "weights")
    (copy / "model.data").unlink()
    backend = LocalBackend.load(copy, threads=1, packed_cache=built)
    assert output(backend) == output(LocalBackend.load(tiny_weights, threads=1))
    (copy / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match=r"tokenizer\.json is missing"):
        LocalBackend.load(copy, threads=1, packed_cache=built)


def test_altered_weights_are_not_packed(tiny_weights, tmp_path):
    copy = shutil.copytree(tiny_weights, tmp_path / "weights")
    data = copy / "model.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\0")
    packed = PackedWeights(load_manifest(copy), tmp_path / "cache")
    with pytest.raises(WeightsError, match="altered"):
        packed.build(copy)
    assert not packed.folder.exists()


@pytest.mark.parametrize("what", ["runtime", "processor", "model"])
def test_another_runtime_processor_or_model_has_a_folder_of_its_own(
    tiny_weights, tmp_path, monkeypatch, what
):
    manifest = load_manifest(tiny_weights)
    before = PackedWeights(manifest, tmp_path).folder
    assert PackedWeights(manifest, tmp_path).folder == before
    if what == "runtime":
        monkeypatch.setattr("onnxruntime.__version__", "0.0.0")
    elif what == "processor":
        monkeypatch.setattr("models.prepack._processor", lambda: "another")
    else:
        manifest.files["model.data"] = manifest.files["model.onnx"]
    assert PackedWeights(manifest, tmp_path).folder != before


def test_old_folders_go_and_half_built_ones_too(tiny_weights, tmp_path):
    import os

    for age in range(5):
        folder = tmp_path / f"old-{age}"
        folder.mkdir()
        (folder / "digests.json").write_text("{}")
        os.utime(folder, (1e9 - age, 1e9 - age))
    torn, fresh, foreign = (tmp_path / n for n in (".building-a", ".building-b", "foreign"))
    for folder in (torn, fresh, foreign):
        folder.mkdir()
    os.utime(torn, (1e9, 1e9))
    packed = PackedWeights(load_manifest(tiny_weights), tmp_path)
    packed.build(tiny_weights)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {packed.folder.name, "old-0", "old-1", ".building-b", "foreign"}


def test_a_full_disk_leaves_nothing_behind(tiny_weights, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main([str(tiny_weights), str(tmp_path / "cache")]) == 1
    assert list((tmp_path / "cache").iterdir()) == []


def test_builders_at_the_same_time_do_no_harm(tiny_weights, tmp_path):
    command = [sys.executable, "-m", "models.prepack", str(tiny_weights), str(tmp_path)]
    running = [subprocess.Popen(command) for _ in range(min(3, multiprocessing.cpu_count() + 1))]
    assert [process.wait(60) for process in running] == [0] * len(running)
    packed = PackedWeights(load_manifest(tiny_weights), tmp_path)
    packed.verify()
    assert [path.name for path in tmp_path.iterdir()] == [packed.folder.name]
