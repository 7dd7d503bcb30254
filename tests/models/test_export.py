import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.errors import WeightsError
from models.export.__main__ import check_size, export, main
from models.export.huggingface import load_checkpoint, write_checkpoint
from models.export.quantize import (
    Architecture,
    dequantize,
    dequantize_rows,
    quantize_rows,
)
from models.export.verify import (
    QuantizedSequencer,
    ReferenceSequencer,
    compare_lines,
    compare_logits,
)
from models.registry import FileEntry, load_manifest, verify
from models.training.cursors import Cursor

matrices = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@pytest.fixture(scope="module")
def sequences(tiny_tokenizer):
    generator = np.random.default_rng(3)
    low = len(tiny_tokenizer.special_ids)
    return [generator.integers(low, tiny_tokenizer.vocab_size, n).tolist() for n in (200, 150, 3)]


@given(matrices)
@settings(deadline=None)
def test_quantising_twice_changes_no_bit(weight):
    values, scale = quantize_rows(weight)
    again_values, again_scale = quantize_rows(dequantize_rows(values, scale))
    np.testing.assert_array_equal(values, again_values)
    np.testing.assert_array_equal(scale, again_scale)


@given(matrices)
@settings(deadline=None)
def test_quantisation_error_is_half_a_step(weight):
    values, scale = quantize_rows(weight)
    error = np.abs(dequantize_rows(values, scale) - weight)
    # the last step is a little wider: scales are rounded to 16 bits
    assert (error <= scale[:, None] * 0.51).all()


def test_a_row_of_zeros_stays_zero():
    values, scale = quantize_rows(np.zeros((1, 4), np.float32))
    assert not values.any()
    assert scale.tolist() == [1.0]


def test_export_agrees_with_the_independent_reference(tiny_weights, tiny_checkpoint, sequences):
    quantized, reference = QuantizedSequencer(tiny_weights), ReferenceSequencer(tiny_checkpoint)
    report = compare_logits(quantized, reference, sequences)
    assert report["tokens"] == 353
    assert report["top1_agreement"] > 0.9
    assert report["logit_error_mean"] < 0.15
    assert abs(report["nll_delta"]) < 0.05
    assert report["nll_float32"] > 1, "random tokens cannot be predicted"


def test_dequantised_weights_differ_from_the_graph_by_activation_rounding_only(
    tiny_weights, sequences, tmp_path
):
    write_checkpoint(tiny_weights, tmp_path)
    quantized, reference = QuantizedSequencer(tiny_weights), ReferenceSequencer(tmp_path)
    assert compare_logits(quantized, reference, sequences)["top1_agreement"] > 0.93


def test_line_completion_is_compared(tiny_weights, tiny_checkpoint, tiny_tokenizer):
    quantized, reference = QuantizedSequencer(tiny_weights), ReferenceSequencer(tiny_checkpoint)
    cursors = [
        Cursor(prefix="def f(self):\n    retu", suffix="\n\n", middle="rn 1"),
        Cursor(prefix="", suffix="", middle="x"),
    ]
    report = compare_lines(quantized, reference, tiny_tokenizer, cursors, max_tokens=4)
    assert report["cursors"] == 2
    assert report["line_em_rq8"] == report["line_em_float32"] == 0.0
    assert 0 <= report["line_identical"] <= 1


def test_shipped_weights_export_again_to_the_same_bits(tiny_weights, tmp_path):
    write_checkpoint(tiny_weights, tmp_path / "hf")
    export(tmp_path / "hf", tmp_path / "again")
    for name in ("model.onnx", "model.data", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tiny_weights / name).read_bytes()


def test_dequantised_parameters_have_the_checkpoints_names_and_shapes(
    tiny_weights, tiny_checkpoint
):
    _, original = load_checkpoint(tiny_checkpoint)
    ours = dequantize(tiny_weights)
    assert {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in original.items()}
    for name, value in original.items():
        limit = 1e-7 if "norm" in name else np.abs(value).max() / 127
        assert np.abs(ours[name] - value).max() <= limit, name


def test_architecture_survives_its_config(tiny_checkpoint):
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    shape = Architecture.from_config(config)
    assert shape.num_hidden_layers == 2
    assert Architecture.from_config(shape.to_config()) == shape


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"attention_bias": True}, "attention_bias"),
        ({"head_dim": None}, "head_dim"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type"),
    ],
)
def test_unsupported_architectures_are_named(tiny_checkpoint, change, named):
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    with pytest.raises(WeightsError, match=named):
        Architecture.from_config({**config, **change})


def test_command_writes_report_and_manifest(tiny_checkpoint, tmp_path, sequences, capsys):
    inputs = {
        "ids.jsonl": "\n".join(map(json.dumps, sequences)),
        "cursors.jsonl": json.dumps({"prefix": "imp", "suffix": "", "middle": "ort os"}),
        "training.json": '{"tokens": 12}',
    }
    for name, text in inputs.items():
        (tmp_path / name).write_text(text)
    out = tmp_path / "out"
    arguments = [tiny_checkpoint, out, "--name", "mine", "--training", tmp_path / "training.json"]
    arguments += ["--eval-ids", tmp_path / "ids.jsonl", "--cursors", tmp_path / "cursors.jsonl"]
    assert main([str(argument) for argument in arguments]) == 0
    manifest = verify(out)
    assert manifest.name == "mine"
    assert manifest.training == {"tokens": 12}
    assert manifest.report == json.loads((out / "report.json").read_text())
    assert {"top1_agreement", "nll_delta", "line_em_rq8"} <= set(manifest.report)
    assert json.loads(capsys.readouterr().out) == manifest.report
    assert manifest.special_ids["<|eom|>"] == 4
    assert manifest.template["sep"]["layout"][-1] == "<|middle|>"


def test_a_new_export_drops_the_report_of_the_old(tiny_checkpoint, tmp_path):
    (tmp_path / "report.json").write_text("{}")
    export(tiny_checkpoint, tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_command_reports_a_missing_checkpoint(tmp_path, capsys):
    assert main([str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    assert "cannot read the checkpoint" in capsys.readouterr().err


def test_weights_that_a_git_host_refuses_are_not_shippable(tiny_weights):
    manifest = load_manifest(tiny_weights)
    check_size(manifest)
    manifest.files["model.data"] = FileEntry("0" * 64, 96_000_000)
    with pytest.raises(WeightsError, match="too large"):
        check_size(manifest)
