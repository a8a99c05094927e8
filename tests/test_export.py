"""The exported encoder against PyTorch's: values, batch sizes it was not traced with, metadata, refusals."""

from __future__ import annotations

import json

import pytest
import torch

from mp3model import MP2Model, MP3Config, MP3Model
from mp3model.cli import main
from mp3model.model import export

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "frames": 96}
STATISTICS = {name: {"US": [5.0, 1.0], "GB": [4.0, 2.0]} for name in ("total", "debut_rank")}


def saved(folder, kind=MP2Model, **changes):
    torch.manual_seed(0)
    config = MP3Config(**{**SIZES, "regions": ["US", "GB"], "target_statistics": STATISTICS, **changes})
    model = kind(config).eval()
    # Zero biases and near-equal positions would hide a lost term.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        # Tracing and conversion take seconds a model.
        pytest.param({"region_mode": "embedding", "position_mode": "concat"}, marks=pytest.mark.slow),
        pytest.param({"stem_blocks": 1, "pooling": "statistics"}, marks=pytest.mark.slow),
    ],
    ids=["tokens", "embedding", "statistics"],
)
def test_the_onnx_file_gives_what_torch_gives_for_any_batch(tmp_path, changes):
    pytest.importorskip("onnxruntime")
    saved(tmp_path / "model", **changes)
    written = export.export_onnx(export.encoder_of(tmp_path / "model"), tmp_path / "encoder.onnx")
    assert written.difference <= 1e-4
    assert (written.ir_version, written.opset) == (10, export.OPSET)


@pytest.mark.slow
def test_an_onnx_file_of_other_weights_differs(tmp_path):
    pytest.importorskip("onnxruntime")
    saved(tmp_path / "model")
    model = export.encoder_of(tmp_path / "model")
    export.export_onnx(model, tmp_path / "encoder.onnx")
    with torch.no_grad():
        model.encoder.blocks[0].attn.qkv.weight.mul_(1.2)
    assert export.onnx_difference(model, tmp_path / "encoder.onnx") > 1e-3


@pytest.mark.slow
def test_the_metadata_say_what_the_numbers_mean(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    saved(tmp_path / "model", MP3Model)
    assert main(["export", str(tmp_path / "model"), "--onnx", str(tmp_path / "encoder.onnx")]) == 0
    read = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "encoder.onnx").metadata_props}
    assert read["regions"] == ["US", "GB"]
    assert read["targets"] == ["total", "debut_rank"]
    assert read["target_statistics"] == STATISTICS
    assert read["frames"] == 96


def test_the_exported_program_runs_batches_it_was_not_traced_with(tmp_path):
    model = saved(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "--program", str(tmp_path / "encoder.pt2")]) == 0
    program = torch.export.load(tmp_path / "encoder.pt2").module()
    for batch in (1, 5):
        mel = export.example(model, batch)
        with torch.inference_mode():
            expected = model(mel=mel)
            tokens, states, predictions = program(mel)
        assert torch.allclose(tokens, expected.tokens, atol=1e-5)
        assert torch.allclose(states, expected.states, atol=1e-5)
        assert torch.allclose(predictions, expected.predictions, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--onnx or --program"),
        (["--onnx", "encoder.bin"], "encoder.bin"),
        (["--program", "encoder.onnx"], "encoder.onnx"),
    ],
)
def test_a_command_that_would_write_nothing_is_refused(tmp_path, capsys, words, said):
    saved(tmp_path / "model")
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(tmp_path / "model"), *words])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_model_that_does_not_hear_and_a_folder_without_a_model_are_refused(tmp_path, capsys):
    saved(tmp_path / "deaf", MP3Model, encoder="none")
    (tmp_path / "empty").mkdir()
    for folder, said in ((tmp_path / "deaf", "does not hear"), (tmp_path / "empty", "config.json")):
        with pytest.raises(SystemExit):
            main(["export", str(folder), "--onnx", str(tmp_path / "encoder.onnx")])
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "encoder.onnx").exists()
