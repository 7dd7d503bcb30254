import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("gguf")

from benchmarks import shapes
from models.export.decoder import ARCHITECTURES, Decoder, read_decoder
from models.export.gguf import write_decoder
from models.export.graph import write_graph
from models.export.packing import Precision
from tests.models.trained import CONFIGS

SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


class LargerParameters(shapes.RandomParameters):
    """Weights at which attention and feed-forward matter: the published scale leaves a small
    model nearly linear."""

    def __getitem__(self, name):
        values = super().__getitem__(name)
        if values.ndim == 1:
            noise = np.random.default_rng(sum(name.encode())).standard_normal(values.shape)
            return (values + 0.3 * noise).astype(np.float32)
        return values * np.float32(10)


@pytest.mark.parametrize(
    "config",
    [*(pytest.param(CONFIGS[kind]().to_dict(), id=kind) for kind in sorted(CONFIGS))],
)
def test_llama_cpp_computes_what_our_graph_does(config, tmp_path):
    pytest.importorskip("llama_cpp")
    from benchmarks.llama_peer import Flags, LlamaSequence

    shape: Decoder = replace(read_decoder(config), max_position_embeddings=256)
    parameters = LargerParameters(shape)
    write_graph(shape, parameters, tmp_path, Precision.FLOAT)
    write_decoder(shape, parameters, tmp_path / "m.gguf", name="m")
    ours = shapes.load("ours", tmp_path, shape, 1, context=256)
    flags = Flags(flash_attention=False, micro_batch=128, kv_type="f32", repack=False)
    theirs = LlamaSequence(tmp_path / "m.gguf", shape.vocab_size, 256, 1, flags)
    ids = np.random.default_rng(1).integers(5, shape.vocab_size, 60).tolist()
    a, b = ours.append(ids, 60).copy(), theirs.append(ids, 60).copy()
    theirs.close()
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.995
    assert b.std() == pytest.approx(a.std(), rel=0.03)
    assert np.mean(a.argmax(axis=1) == b.argmax(axis=1)) > 0.75


def test_every_architecture_is_tried():
    assert set(CONFIGS) == ARCHITECTURES


def test_a_shape_is_measured_and_its_files_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(shapes.CONFIGS, "small", SMALL)
    # A process of its own would not know the shape.
    monkeypatch.setattr(shapes, "_apart", lambda *arguments: shapes.measure_turn(*arguments))
    options = ["--rounds", "1", "--threads", "1", "--folder", str(tmp_path), "--json"]
    assert shapes.main(["small", "--bits", "4", "8", *options]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["bits"] for run in runs] == [4, 8]
    assert all(run["ours"]["ms_per_token"] > 0 for run in runs)
    written = (tmp_path / "small-4" / "model.data").stat().st_mtime_ns
    assert shapes.main(["small", "--bits", "4", *options]) == 0
    assert (tmp_path / "small-4" / "model.data").stat().st_mtime_ns == written


def test_published_shapes_have_the_published_size():
    sizes = {name: round(shapes.decoder(name).parameters / 1e9, 2) for name in shapes.CONFIGS}
    assert sizes == {"arctic-snowcoder-1.3b": 1.36, "qwen2.5-coder-0.5b": 0.49}
