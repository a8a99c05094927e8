"""A trained model's folder in; its audio encoder as an ONNX file or a `torch.export` program out, with its difference.

What is exported takes normalised log-mels (batch, frames, mels) as `LogMel` makes them, any number at once, and gives

| output      | shape                      | what                                                              |
|-------------|----------------------------|-------------------------------------------------------------------|
| tokens      | (batch, 2 + patches, width)| class, distillation, patches, after the final norm                 |
| states      | (batch, regions, width)    | what each region's head reads                                      |
| predictions | (batch, regions, targets)  | standardised totals and debut ranks                                |

The number of frames is the configuration's. Regions, targets, their statistics and the normalisation of the log-mels
stand in the file's metadata, as JSON.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mp3model.files import InputError, written_whole
from mp3model.model.modeling import MP2Model
from mp3model.model.modeling_mp3 import MP3Model

OPSET = 18
OUTPUTS = ("tokens", "states", "predictions")


class ExportedEncoder(nn.Module):
    """The part of a model that is exported.

    Args:
        model: In evaluation mode, in float32 on a processor.
    """

    def __init__(self, model: MP2Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, frames, mels) → tokens, states and predictions, see the module."""
        output = self.model(mel=mel)
        return output.tokens, output.states, output.predictions


@dataclass(frozen=True)
class OnnxFile:
    """What was written.

    Attributes:
        path: The file; weights are inside.
        ir_version: ONNX's own format.
        opset: Of the default operators.
        difference: Largest absolute difference of any output from PyTorch's, over batches of one and of three.
    """

    path: Path
    ir_version: int
    opset: int
    difference: float


def encoder_of(folder: str | Path) -> MP2Model:
    """The audio model of RUN/model, of MP2 or within MP3.

    Raises:
        InputError: If there is no whole model, or it does not hear.
    """
    path = Path(folder) / "config.json"
    try:
        kinds = json.loads(path.read_text()).get("architectures") or []
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no config.json in it; give RUN/model of recipes/mp2.py or mp3.py") from error
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read as a configuration ({error}); copy the folder again") from error
    if kinds not in (["MP2Model"], ["MP3Model"]):
        raise InputError(
            f"{path}: describes {', '.join(map(str, kinds)) or 'no model'}; MP2Model or MP3Model is needed"
        )
    try:
        model = (MP2Model if kinds == ["MP2Model"] else MP3Model).from_pretrained(folder)
    except OSError as error:
        raise InputError(f"{folder}: no whole model ({str(error).splitlines()[0]}); copy the folder again") from error
    hears = model if isinstance(model, MP2Model) else model.mp2
    if hears is None:
        raise InputError(f"{folder}: its encoder is {model.config.encoder!r}, which does not hear: nothing to export")
    return hears.eval().float()


def example(model: MP2Model, batch: int, seed: int = 0) -> Tensor:
    """Random log-mels (batch, frames, mels) as normalisation leaves them."""
    shape = (batch, model.config.frames, model.config.num_mel_bins)
    return 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def metadata(model: MP2Model) -> dict[str, str]:
    """What a user of the file needs beside the weights, each as JSON."""
    config = model.config
    names = ("regions", "targets", "target_statistics", "mel_mean", "mel_std", "num_mel_bins", "frames")
    return {name: json.dumps(getattr(config, name)) for name in names} | {"sample_rate": "16000"}


def export_program(model: MP2Model, path: str | Path) -> Path:
    """Writes the encoder as a `torch.export` program (.pt2), loaded by `torch.export.load(path).module()`."""
    with written_whole(Path(path)) as temporary, _quiet(), open(temporary, "wb") as stream:
        torch.export.save(_program(model), stream, extra_files=metadata(model))
    return Path(path)


def export_onnx(model: MP2Model, path: str | Path) -> OnnxFile:
    """Writes the encoder as one ONNX file and runs it beside PyTorch.

    Raises:
        InputError: If onnx, onnxscript or onnxruntime is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401  checked before minutes are spent
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"--onnx {path}: {error.name} is not installed; pip install 'mp3model[export]'") from error
    with written_whole(Path(path)) as temporary, _quiet():
        program = torch.onnx.export(
            _program(model),
            input_names=["mel"],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        written = program.model_proto
        onnx.helper.set_model_props(written, metadata(model))
        Path(temporary).write_bytes(written.SerializeToString())
    opset = next(entry.version for entry in written.opset_import if entry.domain in ("", "ai.onnx"))
    return OnnxFile(Path(path), written.ir_version, opset, onnx_difference(model, path))


def onnx_difference(model: MP2Model, path: str | Path) -> float:
    """Largest absolute difference of an ONNX file's outputs from the model's, over batches of one and of three."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in (1, 3):
        mel = example(model, batch, seed=batch)
        with torch.inference_mode():
            expected = ExportedEncoder(model)(mel)
        given = session.run(list(OUTPUTS), {"mel": mel.numpy()})
        for one, other in zip(expected, given, strict=True):
            largest = max(largest, float((one - torch.from_numpy(other)).abs().max()))
    return largest


def _program(model: MP2Model) -> Any:
    """The traced encoder, for any number of clips; two in the example, as one would be taken for a constant."""
    batch = {0: torch.export.Dim("batch", min=1, max=4096)}
    with torch.inference_mode(False), torch.no_grad():
        return torch.export.export(ExportedEncoder(model), (example(model, 2),), dynamic_shapes={"mel": batch})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own progress and deprecations, which say nothing of the model."""
    names = ("torch.onnx", "onnxscript", "torch.export")
    before = [logging.getLogger(name).level for name in names]
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in zip(names, before, strict=True):
            logging.getLogger(name).setLevel(level)
