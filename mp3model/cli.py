"""The command line: `mp3model augment` draws what training does to a clip, `mp3model doctor` checks an installation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mp3model.files import InputError, errors_in_one_line

PICTURE_SECONDS = 10.24


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 0 if all is well, 1 if doctor found a fault, 2 for wrong input."""
    parser = argparse.ArgumentParser(
        prog="mp3model", description="Forecast how a new song will stream, from its audio."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    augment = commands.add_parser("augment", help="draw one clip before and after each augmentation")
    augment.add_argument("audio", nargs="*", help="a song's clip and, if there are, its other previews")
    augment.add_argument("--plot", default="augment.png", help="PNG to write (augment.png)")
    augment.add_argument("--start", type=float, default=0.0, help="where in each file the clip starts, in seconds")
    augment.add_argument("--seed", type=int, default=0, help="of the pitch and timbre effects")
    commands.add_parser("doctor", help="check that this installation can do its work")
    arguments = parser.parse_args(argv)
    with errors_in_one_line():
        if arguments.command == "doctor":
            return doctor()
        draw_augmentation(arguments.audio, arguments.plot, arguments.start, arguments.seed)
    return 0


def draw_augmentation(files: Sequence[str], plot: str, start: float, seed: int) -> None:
    """Cuts a clip from each file, or from two previews of a simulated song, and draws what augmentation does to it."""
    if not plot.endswith(".png"):
        raise InputError(f"--plot {plot}: the picture is a PNG; give a name that ends in .png")
    import numpy as np

    from mp3model.audio.bank import SAMPLE_RATE

    length, first = int(PICTURE_SECONDS * SAMPLE_RATE), int(start * SAMPLE_RATE)
    waveforms = {}
    if files:
        from mp3model.audio.decode import decode

        for name in files:
            waveform = decode(Path(name))[first : first + length]
            if len(waveform) < SAMPLE_RATE:
                raise InputError(f"{name}: less than a second is left after --start {start}; start earlier")
            waveforms[Path(name).name] = waveform
    else:
        from data_prep.synth import draw_attributes, render_previews

        random = np.random.default_rng(seed)
        attributes = draw_attributes(np.zeros(1, dtype=int), random)
        song = {str(name): value for name, value in attributes.iloc[0].items()}
        clips = render_previews(song, "", 2, random, np.random.default_rng(seed + 1))
        waveforms = {f"simulated {number + 1}": clip[first : first + length] for number, clip in enumerate(clips)}
    from mp3model.serving.plots import augmentation_picture

    augmentation_picture(waveforms, plot, seed)
    print(f"wrote {plot}")


def doctor() -> int:
    """Says what of the installation works: versions that fit each other, devices, decoders, a forward pass."""
    import platform
    from importlib import import_module
    from importlib.metadata import PackageNotFoundError, version

    faults = 0
    print(f"python {platform.python_version()} on {platform.machine()}")
    names = ["torch", "torchaudio", "torchvision", "timm", "transformers", "accelerate", "audiomentations"]
    names += ["numpy", "pandas", "pyarrow", "soundfile", "av", "soxr"]
    for name in names:
        try:
            import_module(name)
            print(f"  ok      {name} {version(name)}")
        except (ImportError, OSError, RuntimeError, PackageNotFoundError) as error:
            faults += 1
            print(f"  fault   {name}: {str(error).splitlines()[0]}; mend: pip install --force-reinstall {name}")
    try:
        faults += _check_model()
    except ImportError as error:
        faults += 1
        print(f"  fault   model: {error}")
    print("all is well" if not faults else f"{faults} fault(s)")
    return 1 if faults else 0


def _check_model() -> int:
    """A forward pass on every device there is; how many failed."""
    import torch

    from mp3model import MP2Model, MP3Config

    faults = 0
    devices = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    model = MP2Model(MP3Config(regions=["US"])).eval()
    for device in devices:
        name = torch.cuda.get_device_name(device) if device != "cpu" else f"{torch.get_num_threads()} thread(s)"
        with torch.inference_mode():
            output = model.to(device)(waveforms=torch.zeros(1, model.config.samples, device=device))
        finite = bool(output.predictions.isfinite().all())
        faults += not finite
        print(f"  {'ok   ' if finite else 'fault'}   forward pass on {device} ({name})")
    return faults


if __name__ == "__main__":
    sys.exit(main())
