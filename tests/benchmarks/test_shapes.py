import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("gguf")

from benchmarks import engine, shapes
from benchmarks.shape_reference import reference_logits
from benchmarks.trained import CONFIGS
from models.export.decoder import ARCHITECTURES, Decoder, read_decoder
from models.export.gguf import write_decoder
from models.export.graph import write_graph
from models.export.packing import Precision

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
    monkeypatch.setattr(shapes, "_apart", shapes.measure_turn)
    options = ["--rounds", "1", "--threads", "1", "--folder", str(tmp_path), "--json"]
    assert shapes.main(["small", "--bits", "4", "8", *options]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["bits"] for run in runs] == [4, 8]
    assert all(run["ours"]["ms_per_token"] > 0 for run in runs)
    four, eight = (run["ours"]["logits_error"] for run in runs)
    assert 0 < eight < 0.05 < four < 0.3
    written = (tmp_path / "small-4" / "model.data").stat().st_mtime_ns
    assert shapes.main(["small", "--bits", "4", *options]) == 0
    assert (tmp_path / "small-4" / "model.data").stat().st_mtime_ns == written


def test_published_shapes_have_the_published_size():
    sizes = {name: round(shapes.decoder(name).parameters / 1e9, 2) for name in shapes.CONFIGS}
    published = {"arctic-snowcoder-1.3b": 1.36, "qwen2.5-coder-0.5b": 0.49, "starcoder2-3b": 3.03}
    assert sizes == published


@pytest.mark.parametrize("kind", ["llama", "qwen2", "starcoder2"])
def test_the_reference_of_a_shape_is_that_of_the_whole_model(kind):
    torch = pytest.importorskip("torch")
    import transformers

    config = CONFIGS[kind]().to_dict()
    parameters = LargerParameters(read_decoder(config))
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()
    model.load_state_dict(
        {name: torch.tensor(parameters[name]) for name in parameters}, strict=False
    )
    model.tie_weights()
    ids = list(range(5, 40))
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(reference_logits(config, parameters, ids), wanted, atol=1e-4)


def test_a_shape_is_a_model_of_the_engine_s_benchmark(monkeypatch):
    given = []
    monkeypatch.setattr(shapes, "main", lambda arguments: given.extend(arguments) or 0)
    assert engine.main(["--model", "starcoder2-3b", "--against", "llama.cpp", "--json"]) == 0
    assert given == ["starcoder2-3b", "--threads", "2", "--peer", "--json"]
