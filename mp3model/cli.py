"""The command line: forecasts, metrics of a curve, augmentation, model cards, a service, a check of an installation."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mp3model.files import InputError, errors_in_one_line

PICTURE_SECONDS = 10.24


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 0 if all is well, 1 if doctor found a fault, 2 for wrong input."""
    parser = argparse.ArgumentParser(
        prog="mp3model", description="Forecast how a new song will stream, from its audio."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_forecast(commands)
    _add_metrics(commands)
    augment = commands.add_parser("augment", help="draw one clip before and after each augmentation")
    augment.add_argument("audio", nargs="*", help="a song's clip and, if there are, its other previews")
    augment.add_argument("--plot", default="augment.png", help="PNG to write (augment.png)")
    augment.add_argument("--start", type=float, default=0.0, help="where in each file the clip starts, in seconds")
    augment.add_argument("--seed", type=int, default=0, help="of the pitch and timbre effects")
    _add_card(commands)
    _add_serve(commands)
    export = commands.add_parser(
        "export", help="the audio encoder of a model for other programs: ONNX, or torch.export"
    )
    export.add_argument("model", help="RUN/model of recipes/mp2.py or mp3.py")
    export.add_argument("--onnx", metavar="FILE", help="ONNX file to write, .onnx; it is run beside the model")
    export.add_argument("--program", metavar="FILE", help="torch.export program to write, .pt2")
    check = commands.add_parser("doctor", help="check that this installation can do its work")
    check.add_argument("--json", action="store_true", help="findings as JSON, for scripts")
    arguments = parser.parse_args(argv)
    try:
        with errors_in_one_line():
            status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has had enough, as `head` has; what is still to be printed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "doctor":
        from mp3model.serving.doctor import doctor

        return doctor(arguments.json)
    if arguments.command == "forecast":
        forecast(arguments)
    elif arguments.command == "metrics":
        metrics(arguments)
    elif arguments.command == "export":
        export_encoder(arguments.model, arguments.onnx, arguments.program)
    elif arguments.command == "card":
        card(arguments)
    elif arguments.command == "serve":
        serve(arguments)
    else:
        draw_augmentation(arguments.audio, arguments.plot, arguments.start, arguments.seed)
    return 0


def _add_forecast(commands: Any) -> None:
    parser = commands.add_parser(
        "forecast",
        help="forecast how songs will stream",
        description="Forecast songs in some regions, given that they chart there: streams by week or day, popularity "
        "metrics and sampled paths. Several files go into one set of tables, told apart by track_id, the file's name "
        "without its suffix; each gets a picture of its own.",
        epilog="song.csv comes with song.popularity.csv, song.chances.csv (milestones, top ranks, place in the "
        "catalogue), song.paths.parquet, song.flags.csv (why not to trust it) and, where the model has a catalogue, "
        "song.comparables.csv. All are written, or none.",
    )
    add = parser.add_argument
    add("audio", nargs="*", help="mp3, m4a, aac, ogg, flac, wav or aiff; none forecasts from what else is known")
    add("--model", required=True, help="RUN/model of recipes/mp3.py")
    add("--region", action="append", help="ISO 3166 code or GLOBAL; repeat for more; none is all that are known")
    add("--release", help="YYYY-MM-DD; period 0 is the week (or day) that holds it")
    add("--observed", metavar="FILE", help="CSV or parquet of periods known so far: region, week or date, streams")
    add(
        "--history",
        metavar="FILE",
        help="CSV or parquet of the artist's earlier songs: track_id, region, date, streams",
    )
    add("--features", metavar="FILE", help="CSV or parquet of x_* descriptors, with track_id for several songs")
    add("--data", metavar="DIR", help="dataset folder: floors, artists and other songs up to the forecast's date")
    add("--artist", help="whose song it is, guests after a comma: `Ann, Bob`; found in --data")
    add("--milestone", type=float, action="append", metavar="N", help="chance and time of N streams; repeat for more")
    add("--top", type=int, action="append", metavar="N", help="chance to enter the top N; repeat for more")
    add("--samples", type=int, default=256, help="paths (256)")
    add("--seed", type=int, default=0, help="of the luck in the paths (0)")
    add("--full", action="store_true", help="streams below the chart too, as the model guesses them, instead of 0")
    add("--device", help="cpu, cuda, ...; none is the GPU where there is one")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 hears faster, where the device has it")
    add("-o", "--output", default="forecast.csv", help="table to write, .csv or .parquet (forecast.csv)")
    add("--plot", help="PNG to write; for several songs NAME-TRACK.png")


def _add_metrics(commands: Any) -> None:
    parser = commands.add_parser(
        "metrics",
        help="popularity metrics of sampled paths or of an observed curve",
        description="Popularity metrics of a table with streams and week, day or date (a period's last day), and what "
        "there is of track_id, region, rank, sample. With sample, the metrics' distribution over paths.",
    )
    add = parser.add_argument
    add("table", help="song.paths.parquet, or a CSV or parquet of observed curves")
    add("--observed", type=int, help="periods known when the forecast was made: adds what remained")
    add("--zero-filled", action="store_true", help="periods off the chart count as 0 in mean, std, skewness, kurtosis")
    add("--model", help="RUN/model, whose charts tell the debut rank where the table has none")
    add("-o", "--output", help="table to write, .csv or .parquet; none only prints")


def _add_card(commands: Any) -> None:
    parser = commands.add_parser(
        "card",
        help="write a run's model card",
        description="Write the model card of a run of recipes/mp2.py or recipes/mp3.py, a README.md beside the weights "
        "with data, split, errors beside floors, limits and licence, as model hubs read it.",
    )
    add = parser.add_argument
    add("run", help="folder with model/ and report.json")
    add("--report", metavar="FILE", help="report.json of recipes/evaluate.py: errors by region and for new artists")
    add("--license", default="apache-2.0", help="of the weights (apache-2.0)")
    add("-o", "--output", help="file to write; none is RUN/model/README.md")


def _add_serve(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="forecast over HTTP, with a web page",
        description="Serve a model: a page at /, POST /v1/forecasts (multipart: file, regions, release_date, ...), and "
        "what else /openapi.json tells. Answers only this machine unless --host says otherwise.",
    )
    add = parser.add_argument
    add("--model", required=True, help="RUN/model of recipes/mp3.py")
    add("--port", type=int, default=8000, help="port; 0 is any that is free (8000)")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is all of this machine's (127.0.0.1)")
    add("--data", metavar="DIR", help="dataset folder: floors, artists and other songs up to a forecast's date")
    add("--api-key-file", metavar="FILE", help="file whose first line every request must bring as X-API-Key")
    add("--workers", type=int, default=2, help="processes that decode audio (2)")
    add("--device", help="cpu, cuda, ...; none is the GPU where there is one")


def serve(arguments: argparse.Namespace) -> None:
    """Serves a model until it is interrupted."""
    if not 0 <= arguments.port <= 65_535:
        raise InputError(f"--port {arguments.port}: give a number from 0 to 65535")
    if not 1 <= arguments.workers <= 64:
        raise InputError(f"--workers {arguments.workers}: give from 1 to 64 processes")
    key = None
    if arguments.api_key_file is not None:
        try:
            key = next(iter(Path(arguments.api_key_file).read_text().splitlines()), "").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--api-key-file {arguments.api_key_file}: cannot be read ({error})") from error
        if len(key) < 8 or not key.isascii():
            raise InputError(f"--api-key-file {arguments.api_key_file}: its first line is no key of 8 or more letters")
    try:
        from mp3model.serving import api
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "mp3model":
            raise
        raise InputError(f"no {error.name} here, which serve needs; pip install 'mp3model[serve]'") from error
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    api.serve(
        *(arguments.model, arguments.port, arguments.host, arguments.data),
        api_key=key,
        workers=arguments.workers,
        device=arguments.device,
    )


def card(arguments: argparse.Namespace) -> None:
    """Writes a model card."""
    from mp3model.serving.card import write_card

    print(f"wrote {write_card(arguments.run, arguments.report, arguments.license, arguments.output)}")


def _check_output(option: str, name: str, suffixes: tuple[str, ...]) -> None:
    """Refuses a name that cannot be written to, before anything is computed."""
    if not name.endswith(suffixes):
        raise InputError(f"{option} {name}: give a name that ends in {' or '.join(suffixes)}")
    place = Path(name)
    if place.is_dir():
        raise InputError(f"{option} {name}: is a folder; name a file")
    above = next(folder for folder in place.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        why = "not writable" if above.is_dir() else "a file, not a folder"
        raise InputError(f"{option} {name}: cannot be written ({above} is {why}); give another place")


def forecast(arguments: argparse.Namespace) -> None:
    """Forecasts, writes all tables and pictures or none, and prints totals and flags."""
    for name in arguments.audio:
        if not Path(name).is_file():
            what = (
                "is a folder; name its files, or give it to recipes/forecast.py"
                if Path(name).is_dir()
                else "no such file"
            )
            raise InputError(f"{name}: {what}")
    if arguments.artist is not None and arguments.data is None and arguments.history is None:
        raise InputError(
            f"--artist {arguments.artist}: add --data DIR, where the artist's songs are, or --history FILE"
        )
    _check_output("-o", arguments.output, (".csv", ".parquet"))
    if arguments.plot is not None:
        _check_output("--plot", arguments.plot, (".png",))
    for name in (arguments.observed, arguments.history, arguments.features):
        if name is not None and Path(name).resolve() == Path(arguments.output).resolve():
            raise InputError(f"-o {arguments.output}: would be written over what it is made from; give another name")
    import pandas as pd
    from transformers.utils import logging

    from mp3model.serving.forecaster import Forecaster
    from mp3model.serving.result import MILESTONES, TOPS

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    forecaster = Forecaster.from_pretrained(arguments.model, arguments.device, arguments.precision)
    audio: Any = arguments.audio[0] if arguments.audio else None
    artist = arguments.artist
    if len(arguments.audio) > 1:
        audio, artist = pd.DataFrame({"path": arguments.audio}).assign(artist=artist), None
    found = forecaster.forecast(
        audio,
        arguments.region,
        arguments.release,
        arguments.observed,
        arguments.samples,
        arguments.history,
        arguments.features,
        arguments.data,
        artist=artist,
        seed=arguments.seed,
        full=arguments.full,
    )
    milestones, tops = arguments.milestone or (), arguments.top or ()
    summary = found.summary(milestones, tops)
    written = found.write(arguments.output, arguments.plot, milestones or MILESTONES, tops or TOPS)
    print(summary)
    print(f"wrote {', '.join(map(str, written))}")


def metrics(arguments: argparse.Namespace) -> None:
    """Prints the metrics of a table of curves, and writes them if asked to."""
    if arguments.output is not None:
        _check_output("-o", arguments.output, (".csv", ".parquet"))
        if Path(arguments.table).resolve() == Path(arguments.output).resolve():
            raise InputError(f"-o {arguments.output}: would be written over what it is made from; give another name")
    import pandas as pd

    from mp3model.serving.result import write_table
    from mp3model.serving.scores import metrics_of

    found = metrics_of(arguments.table, arguments.observed, arguments.zero_filled, arguments.model)
    with pd.option_context("display.width", 160, "display.max_columns", 40, "display.max_rows", 400):
        print(found.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:,.6g}"))
    ranks = found["debut_rank"] if "debut_rank" in found else found.loc[found["metric"] == "debut_rank", "mean"]
    if ranks.isna().all():
        print("debut_rank is told by a column rank, or by the charts of a --model")
    if arguments.output is not None:
        write_table(found, arguments.output)
        print(f"wrote {arguments.output}")


def export_encoder(folder: str, onnx: str | None, program: str | None) -> None:
    """Writes the audio encoder in one or both forms and says how far the first is from the model."""
    if onnx is None and program is None:
        raise InputError(f"export {folder}: nothing to write; give --onnx or --program")
    for option, name, suffix in (("--onnx", onnx, ".onnx"), ("--program", program, ".pt2")):
        if name is not None:
            _check_output(option, name, (suffix,))
    from transformers.utils import logging

    from mp3model.model.export import encoder_of, export_onnx, export_program

    logging.disable_progress_bar()
    model = encoder_of(folder)
    if onnx is not None:
        written = export_onnx(model, onnx)
        print(
            f"wrote {written.path}: ONNX ir {written.ir_version}, opset {written.opset}, any batch of "
            f"{model.config.frames} frames; largest difference from the model {written.difference:.1e}"
        )
    if program is not None:
        print(f"wrote {export_program(model, program)}: torch.export, any batch of {model.config.frames} frames")


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


if __name__ == "__main__":
    sys.exit(main())
