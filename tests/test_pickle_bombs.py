"""Pickle bombs in every place where the project reads a file: refused in one line, and never run."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from tiny_model import write_model

from mp3model.files import InputError, sha256_of

MODULES = sorted(path for room in ("mp3model", "data_prep", "recipes") for path in (ROOT / room).rglob("*.py"))


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, fuse: Path) -> None:
        self.fuse = fuse

    def __reduce__(self):
        return os.mkdir, (str(self.fuse),)


def plain(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb)


def by_torch(bomb: Bomb) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save({"weight": bomb}, stream)
    return stream.getvalue()


def by_old_torch(bomb: Bomb) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save({"weight": bomb}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def as_array(bomb: Bomb) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([bomb], dtype=object), allow_pickle=True)
    return stream.getvalue()


def as_arrays(bomb: Bomb) -> bytes:
    stream = io.BytesIO()
    array = np.array([bomb], dtype=object)
    np.savez(stream, about=array, curve=array)
    return stream.getvalue()


def as_parquet(bomb: Bomb) -> bytes:
    """A table with an extension type whose description is a pickle, as pyarrow once unpickled it."""
    import pyarrow
    import pyarrow.parquet

    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(bomb)}
    names = ("track_id", "region", "date", "streams", "rank", "preview", "shard", "offset", "samples", "sha256")
    fields = [pyarrow.field(name, pyarrow.binary(), metadata=metadata) for name in names]
    stream = io.BytesIO()
    table = pyarrow.table([[pickle.dumps(bomb)]] * len(names), schema=pyarrow.schema(fields))
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()


def gzipped(bomb: Bomb) -> bytes:
    return gzip.compress(pickle.dumps(bomb))


KINDS = (plain, by_torch, by_old_torch, as_array, as_arrays, as_parquet, gzipped)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("bombs") / "model")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    from transformers import ASTConfig, ASTModel

    folder = tmp_path_factory.mktemp("encoder")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ASTModel(ASTConfig(**small, max_length=64, num_mel_bins=32)).save_pretrained(folder)
    return folder


# What reads each place: a function of a fresh folder, the bomb as bytes, and the folder of a good model or encoder.


def read_model(folder: Path) -> None:
    from mp3model.serving.forecaster import Forecaster

    Forecaster.from_pretrained(folder, "cpu")


def export_model(folder: Path) -> None:
    from mp3model.model.export import encoder_of

    encoder_of(folder)


def read_encoder(folder: Path) -> None:
    from mp3model.model.encoder import AST

    AST.from_pretrained(folder)


def instead_of_weights(read: Callable[[Path], None], name: str) -> Callable[[Path, bytes, Path], None]:
    def load(folder: Path, content: bytes, good: Path) -> None:
        shutil.copytree(good, folder / "model")
        (folder / "model" / "model.safetensors").unlink()
        (folder / "model" / name).write_bytes(content)
        read(folder / "model")

    return load


def shards_listed(folder: Path, content: bytes, good: Path) -> None:
    shutil.copytree(good, folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    (folder / "model" / "part.bin").write_bytes(content)
    index = {"metadata": {"total_size": 1}, "weight_map": {"log_floors": "part.bin"}}
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    read_model(folder / "model")


def settings(read: Callable[[Path], None]) -> Callable[[Path, bytes, Path], None]:
    def load(folder: Path, content: bytes, good: Path) -> None:
        shutil.copytree(good, folder / "model")
        (folder / "model" / "config.json").write_bytes(content)
        read(folder / "model")

    return load


def image_weights(name: str) -> Callable[[Path, bytes, Path], None]:
    def load(folder: Path, content: bytes, _: Path) -> None:
        from mp3model.model.encoder import AST

        (folder / name).write_bytes(content)
        AST.from_timm("test_vit", folder / name)

    return load


def checkpoint(name: str) -> Callable[[Path, bytes, Path], None]:
    def load(folder: Path, content: bytes, _: Path) -> None:
        import torch

        from mp3model.training.loop import newest_checkpoint, save_checkpoint

        layer = torch.nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(layer.parameters())
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        save_checkpoint(folder, 1, {"model": layer.state_dict()}, optimizer, {})
        (folder / "checkpoint-1" / name).write_bytes(content)
        if newest_checkpoint(folder) is None:
            raise InputError("damaged, passed over")

    return load


def planted_checkpoint(name: str) -> Callable[[Path, bytes, Path], None]:
    """By someone who noted the bomb's digest too, as earlier checkpoints had them."""

    def load(folder: Path, content: bytes, _: Path) -> None:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        from mp3model.training.loop import load_checkpoint, newest_checkpoint

        path = folder / "checkpoint-1"
        path.mkdir()
        for each in ("model", "optimizer"):
            save_file({"0.step": torch.zeros(1)}, path / f"{each}.safetensors")
        (path / name).write_bytes(content)
        files = {each.name: sha256_of(each) for each in path.iterdir()}
        (path / "state.json").write_text(json.dumps({"step": 1, "files": files}))
        found = newest_checkpoint(folder)
        assert found == path
        optimizer = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters())
        try:
            load_checkpoint(found, optimizer, torch.device("cpu"))
        except SafetensorError as error:
            raise InputError("no safetensors file") from error

    return load


def trees(folder: Path, content: bytes, _: Path) -> None:
    pytest.importorskip("lightgbm")
    from baseline_checks import covariates_of
    from small_charts import small_charts

    from mp3model.baselines.boosted import Boosted

    (folder / "boosted.json.gz").write_bytes(content)
    Boosted.load(folder / "boosted.json.gz", covariates_of(small_charts()))


def dataset_file(name: str) -> Callable[[Path, bytes, Path], None]:
    def load(folder: Path, content: bytes, _: Path) -> None:
        from small_charts import small_charts

        from mp3model.tables.folder import read_dataset, write_dataset

        charts = small_charts()
        info = {"frequency": "W", "sources": ["made"]}
        write_dataset(folder, tracks=charts.tracks, curves=charts.curves, charts=charts.charts, info=info)
        (folder / name).write_bytes(content)
        read_dataset(folder)

    return load


def bank_file(name: str) -> Callable[[Path, bytes, Path], None]:
    def load(folder: Path, content: bytes, _: Path) -> None:
        from mp3model.audio.bank import AudioBank, write_index, write_shard

        write_index(folder, write_shard(folder, 0, [("a", 0, np.zeros(16_000, np.int16))]))
        (folder / name).write_bytes(content)
        AudioBank(folder).read(0)

    return load


def stored_forecasts(folder: Path, content: bytes, _: Path) -> None:
    from baseline_checks import all_debuts

    from mp3model.evaluation.stored_forecasts import read_forecasts

    (folder / "a.npz").write_bytes(content)
    read_forecasts(folder / "a.npz", all_debuts())


def published_weights(folder: Path, content: bytes, _: Path) -> None:
    from mp3model.baselines.jynet import read_arrays

    (folder / "cnn.npz").write_bytes(content)
    read_arrays(folder / "cnn.npz", {"curve": (1,)})


def catalogue(folder: Path, content: bytes, _: Path) -> None:
    from mp3model.serving.comparables import TABLE, TENSORS, Catalogue

    for name in (TABLE, TENSORS):
        (folder / name).write_bytes(content)
    Catalogue.read(folder)


def given_table(name: str) -> Callable[[Path, bytes, Path], None]:
    def load(folder: Path, content: bytes, _: Path) -> None:
        from mp3model.serving.observed import read_table

        (folder / name).write_bytes(content)
        frame, _name = read_table(folder / name, "observed")
        # A table of bytes may be read; its bytes stay bytes.
        assert all(isinstance(cell, bytes) for cell in frame.to_numpy().ravel())
        raise InputError("bytes")

    return load


def song(folder: Path, content: bytes, _: Path) -> None:
    from mp3model.audio.decode import decode

    (folder / "song.mp3").write_bytes(content)
    decode(folder / "song.mp3")


def upload(folder: Path, content: bytes, _: Path) -> None:
    from mp3model.audio.decode import decode

    decode(content, name="song.mp3")


def recipe(folder: Path, content: bytes, _: Path) -> None:
    from dataclasses import dataclass

    from mp3model.training.arguments import parse_arguments

    @dataclass
    class Options:
        seed: int = 0

    (folder / "a.yaml").write_bytes(content)
    parse_arguments((Options,), [str(folder / "a.yaml")], "")


PLACES: dict[str, tuple[str, Callable[[Path, bytes, Path], None]]] = {
    "a model's weights": ("model", instead_of_weights(read_model, "model.safetensors")),
    "a model's weights as .bin": ("model", instead_of_weights(read_model, "pytorch_model.bin")),
    "a model's weights as .pt": ("model", instead_of_weights(read_model, "model.pt")),
    "a part of a model's weights": ("model", shards_listed),
    "a model's configuration": ("model", settings(read_model)),
    "a model to export": ("model", instead_of_weights(export_model, "model.safetensors")),
    "a configuration to export": ("model", settings(export_model)),
    "an encoder's weights": ("encoder", instead_of_weights(read_encoder, "model.safetensors")),
    "an encoder's weights as .bin": ("encoder", instead_of_weights(read_encoder, "pytorch_model.bin")),
    "an encoder's configuration": ("encoder", settings(read_encoder)),
    "an image model's weights": ("", image_weights("a.safetensors")),
    "an image model's weights as .bin": ("", image_weights("a.bin")),
    "an image model's weights as .npz": ("", image_weights("a.npz")),
    "a checkpoint's model": ("", checkpoint("model.safetensors")),
    "a checkpoint's optimizer": ("", checkpoint("optimizer.safetensors")),
    "a checkpoint's state": ("", checkpoint("state.json")),
    "a planted checkpoint's model": ("", planted_checkpoint("model.safetensors")),
    "a planted checkpoint's optimizer": ("", planted_checkpoint("optimizer.safetensors")),
    "boosted trees": ("", trees),
    "a dataset's tracks": ("", dataset_file("tracks.parquet")),
    "a dataset's curves": ("", dataset_file("curves.parquet")),
    "a dataset's targets": ("", dataset_file("targets.parquet")),
    "a dataset's splits": ("", dataset_file("splits.parquet")),
    "a dataset's previews": ("", dataset_file("previews.parquet")),
    "a dataset's description": ("", dataset_file("dataset.json")),
    "a bank's index": ("", bank_file("previews.parquet")),
    "a bank's sound": ("", bank_file("audio-00000.npy")),
    "stored forecasts": ("", stored_forecasts),
    "published weights": ("", published_weights),
    "a catalogue": ("", catalogue),
    "observed periods as .csv": ("", given_table("a.csv")),
    "observed periods as .parquet": ("", given_table("a.parquet")),
    "observed periods as .pkl": ("", given_table("a.pkl")),
    "a song": ("", song),
    "an upload": ("", upload),
    "a recipe's options": ("", recipe),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_bomb_is_refused_and_never_run(place: str, model: Path, encoder: Path, tmp_path: Path):
    good, read = PLACES[place]
    bomb = Bomb(tmp_path / "exploded")
    for kind in KINDS:
        folder = tmp_path / kind.__name__
        folder.mkdir()
        with pytest.raises(InputError) as refused:
            read(folder, kind(bomb), {"model": model, "encoder": encoder}.get(good, folder))
        assert "\n" not in str(refused.value), kind.__name__
        assert not bomb.fuse.exists(), kind.__name__


def test_the_bombs_are_live(tmp_path: Path):
    import torch

    bomb = Bomb(tmp_path / "exploded")
    readers: dict[Callable[[Bomb], bytes], Callable[[bytes], object]] = {
        plain: pickle.loads,
        by_torch: lambda content: torch.load(io.BytesIO(content), weights_only=False),
        by_old_torch: lambda content: torch.load(io.BytesIO(content), weights_only=False),
        as_array: lambda content: np.load(io.BytesIO(content), allow_pickle=True),
        as_arrays: lambda content: np.load(io.BytesIO(content), allow_pickle=True)["about"],
        gzipped: lambda content: pickle.loads(gzip.decompress(content)),
    }
    for kind, read in readers.items():
        read(kind(bomb))
        bomb.fuse.rmdir()


def test_code_beside_a_model_is_not_run(model: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'exploded')!r})\nclass Model: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = dict.fromkeys(("AutoModel", "AutoConfig", "MP3Model"), "code.Model")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="does not know auto_map"):
        read_model(folder)
    assert not (tmp_path / "exploded").exists()


def test_yaml_makes_no_objects(tmp_path: Path):
    for tag in ("os.mkdir", "subprocess.call"):
        with pytest.raises(InputError, match="not YAML"):
            recipe(tmp_path, f"seed: !!python/object/apply:{tag} [{tmp_path / 'exploded'}]".encode(), tmp_path)
    assert not (tmp_path / "exploded").exists()


# --- What may not be written in the first place. ---

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {
    *("eval", "exec", "torch.load", "pd.read_pickle", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load"),
    *("yaml.full_load", "os.system", "os.popen", "torch.hub.load"),
}
# Each with the one value that it may have.
UNSAFE_OPTIONS = {"allow_pickle": "False", "shell": "False", "trust_remote_code": "False", "use_safetensors": "True"}


def unsafe_lines(source: str) -> list[str]:
    """Imports and calls that run what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.partition(".")[0] in UNSAFE_MODULES]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""
            options = {word.arg: word.value for word in node.keywords if word.arg in UNSAFE_OPTIONS}
            unsafe = called in UNSAFE_CALLS or called.endswith("load_state_dict_from_url")
            unsafe |= any(ast.unparse(value) != UNSAFE_OPTIONS[name] for name, value in options.items())
            found += [ast.unparse(node)] if unsafe else []
    return found


def test_no_module_reads_a_pickle_or_runs_text():
    assert len(MODULES) > 50
    assert {path.name: lines for path in MODULES if (lines := unsafe_lines(path.read_text()))} == {}


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from joblib import load", "torch.load(path, weights_only=True)", "eval(text)"),
        *("np.load(path, allow_pickle=True)", "yaml.load(text)", "subprocess.run(words, shell=True)"),
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_what_is_unsafe_is_recognised(line: str):
    assert unsafe_lines(line)
