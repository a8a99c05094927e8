"""A training run (model, report.json, arguments.json) in; its model card, a README.md beside the weights, out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp3model.files import InputError, written_whole

CARD = "README.md"
# A card that a person wrote has no such line, and is not written over.
MARK = "<!-- written by `mp3model card`; written again by the same command -->"
LICENCE = "apache-2.0"

# Measure → its heading, its decimals, and its name among the metrics of the hub where it has one there.
_MEASURES: dict[str, dict[str, tuple[str, int, str]]] = {
    "MP3Model": {
        "spearman": ("Spearman", 3, "spearmanr"),
        "crps_logfloor": ("CRPS", 3, "crps"),
        "mae_logfloor": ("MAE log10", 3, "mae"),
        "wape": ("WAPE %", 1, "wape"),
        "cov80": ("80 % covers", 3, "coverage"),
        "mae_length": ("MAE length", 2, "mae"),
    },
    "MP2Model": {
        "spearman": ("Spearman", 3, "spearmanr"),
        "kendall": ("Kendall", 3, "kendall"),
        "r2": ("R²", 3, "r_squared"),
        "mae": ("MAE", 3, "mae"),
    },
}
_SOUND_TAGS = ["audio", "audio-spectrogram-transformer"]
_SYSTEM = {"MP3Model": "MP3", "MP2Model": "MP2"}
# What differs from run to run and says how a model came to be; folders of the one who trained it stay out.
_TOLD = (
    "epochs", "batch_size", "accumulation", "learning_rate", "audio_rate", "weight_decay", "layer_decay", "warmup",
    "ema", "seed", "encoder", "audio", "covariates", "descriptors", "likelihood", "components", "nulls", "criterion",
    "region_mode", "position_mode", "gain", "roll", "alternate", "frequency_mask", "time_mask", "shift", "mixup",
    "timbre", "paths", "calibrate", "refit",
)  # fmt: skip


@dataclass(frozen=True)
class _Run:
    """What a card is made of.

    Attributes:
        folder: The run's.
        config: Of its model.
        report: Of its training.
        evaluation: Report of recipes/evaluate.py with slices, or the training's own.
        arguments: Of its training, empty where they were not kept.
    """

    folder: Path
    config: dict[str, Any]
    report: dict[str, Any]
    evaluation: dict[str, Any]
    arguments: dict[str, Any]

    @property
    def kind(self) -> str:
        return str((self.config.get("architectures") or ["MP3Model"])[0])

    @property
    def system(self) -> str:
        return _SYSTEM[self.kind]


def write_card(
    run: str | os.PathLike[str],
    report: str | os.PathLike[str] | None = None,
    licence: str = LICENCE,
    output: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes a run's card and says where.

    Args:
        run: Folder of recipes/mp2.py or recipes/mp3.py.
        report: report.json of recipes/evaluate.py for this model: errors by region and for new artists.
        licence: Of the weights, an identifier that the hub knows.
        output: None is the README.md beside the weights, where `push_to_hub` looks for it.

    Raises:
        InputError: If the run is not whole, or a card that somebody wrote would be lost.
    """
    path = Path(run) / "model" / CARD if output is None else Path(output)
    text = model_card(run, report, licence)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    if path.exists() and MARK not in path.read_text(errors="replace"):
        raise InputError(f"{path}: was written by somebody else; move it away, or name another file by -o")
    try:
        with written_whole(path) as temporary:
            temporary.write_text(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def model_card(
    run: str | os.PathLike[str], report: str | os.PathLike[str] | None = None, licence: str = LICENCE
) -> str:
    """A run's card: a YAML header as the hub reads it, and Markdown.

    Args:
        run, report, licence: Of `write_card`.

    Raises:
        InputError: If the run is not whole, or the report is of another kind.
    """
    found = _read(Path(run), None if report is None else Path(report))
    sections = [
        MARK,
        _opening(found),
        _usage(found),
        _intended(),
        _data(found),
        _results(found),
        _regions(found),
        _new_artists(found),
        _limits(found),
        _training(found),
        _licence(licence),
    ]
    return f"---\n{_header(found, licence)}---\n\n" + "\n\n".join(sections) + "\n"


def _read(folder: Path, report: Path | None) -> _Run:
    if not (folder / "model" / "config.json").is_file():
        outer = folder.parent
        mend = f"; do you mean {outer}?" if (folder / "config.json").is_file() else "; give a run of recipes/mp3.py"
        raise InputError(f"run {folder}: no model/config.json in it{mend}")
    config = _json(folder / "model" / "config.json")
    kind = str((config.get("architectures") or ["MP3Model"])[0])
    if kind not in _SYSTEM:
        raise InputError(f"run {folder}: holds an {kind}; a card is of an MP2Model or MP3Model")
    if not (folder / "report.json").is_file():
        raise InputError(
            f"run {folder}: no report.json in it, so nothing is known of its errors; let it run to its end"
        )
    own = _json(folder / "report.json")
    evaluation = own if report is None else _json(report)
    if report is not None and not {"slices", "leader"} <= set(evaluation):
        raise InputError(f"report {report}: has no slices; give the report.json of recipes/evaluate.py --model")
    kept = folder / "arguments.json"
    return _Run(folder, config, own, evaluation, _json(kept) if kept.is_file() else {})


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, not an object")
    return found


def _header(run: _Run, licence: str) -> str:
    import yaml

    measures = _MEASURES[run.kind]
    name = f"{run.system} {run.folder.name}"
    results = [
        {
            "task": {"type": "time-series-forecasting", "name": "music popularity forecasting"},
            "dataset": {"type": _slug(_data_name(run)), "name": _data_name(run), "split": "test"},
            "metrics": [
                {"type": kind, "name": f"{heading}, {_title(target, run)}", "value": round(scores[measure], 4)}
                for target, scores in run.report.get("test", {}).items()
                for measure, (heading, _, kind) in measures.items()
                if scores.get(measure) is not None
            ],
        }
    ]
    header: dict[str, Any] = {
        "license": licence,
        "library_name": "mp3model",
        "pipeline_tag": "time-series-forecasting",
        "tags": ["music", "music-popularity", "forecasting", *(_SOUND_TAGS if _hears(run) else [])],
        "metrics": sorted({kind for _, _, kind in measures.values()}),
    }
    if results[0]["metrics"]:
        header["model-index"] = [{"name": name, "results": results}]
    return yaml.safe_dump(header, sort_keys=False, allow_unicode=True)


def _slug(name: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split()) or "data"


def _data_name(run: _Run) -> str:
    about = _dataset(run)
    market = about.get("market")
    if market or (not run.arguments.get("data") and run.arguments.get("songs")):
        songs = (market or run.arguments).get("songs")
        seed = market["seed"] if market else run.arguments.get("market_seed", 0)
        return f"simulated market of {songs} songs, seed {seed}"
    return Path(str(run.arguments.get("data") or run.report.get("data") or "data")).name


def _dataset(run: _Run) -> dict[str, Any]:
    """What the dataset says of itself, if it is still there."""
    named = run.arguments.get("data") or run.report.get("data")
    path = Path(str(named)) / "dataset.json"
    return _json(path) if named and path.is_file() else {}


def _title(target: str, run: _Run) -> str:
    if target.startswith("remaining_"):
        count = target.removeprefix("remaining_")
        return f"streams after {count} observed {_period(run)}{'s' if count != '1' else ''}"
    if target == "total":
        return "total streams" + (f" of {run.config['horizon']} {_period(run)}s" if "horizon" in run.config else "")
    return target.replace("_", " ")


def _period(run: _Run) -> str:
    return {"W": "week", "D": "day"}.get(str(run.config.get("frequency", "W")), "period")


def _opening(run: _Run) -> str:
    config, regions = run.config, run.config.get("regions") or []
    count = _parameters(run.folder / "model" / "model.safetensors")
    hears = "hears" if _hears(run) else "does not hear"
    what = (
        f"MP3 writes a song's stream-time curve, {config.get('horizon')} {_period(run)}s from its debut, in each "
        "region: sampled paths, from which every figure (debut, peak, sum, length, half-life, …) comes with its "
        f"interval. It {hears} the song's audio."
        if run.kind == "MP3Model"
        else "MP2 reads a clip of a song once and regresses the streams it gathers and its debut rank in each region. "
        "Its encoder is the ears of an MP3 model, which forecasts the curve."
    )
    facts = f"{len(regions)} regions ({', '.join(regions)})" + (f", {count:,} parameters" if count else "")
    given = "On chart data every number is given that the song charts."
    return f"# {run.system}: {_data_name(run)}\n\n{what}\n\n{facts}. {given}"


def _hears(run: _Run) -> bool:
    return run.kind == "MP2Model" or run.config.get("encoder", "ast") != "none"


def _parameters(path: Path) -> int:
    from math import prod

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the run is not whole") from error


def _names_of_targets(run: _Run) -> str:
    """What a model regresses, as the left side of an assignment."""
    from mp3model.config import MP3Config

    fields = {name: run.config[name] for name in ("criterion", "charted") if name in run.config}
    names = ["log10_total" if name == "total" else name for name in MP3Config(**fields).targets]
    return ", ".join(names) + ("," if len(names) == 1 else "")


def _usage(run: _Run) -> str:
    region = (run.config.get("regions") or ["US"])[0]
    code = (
        "from mp3model import Forecaster\n\n"
        'forecaster = Forecaster.from_pretrained("model")\n'
        f'forecast = forecaster.forecast("song.mp3", regions=["{region}"], release="2026-12-04")\n'
        "forecast.popularity\nforecast.plot()"
        if run.kind == "MP3Model"
        else "import torch\nfrom mp3model import MP2Model\n\n"
        'model = MP2Model.from_pretrained("model").eval()\n'
        "waveforms = torch.zeros(1, model.config.samples)  # 16 kHz, within ±1\n"
        f'predictions = model(waveforms, regions=["{region}"]).predictions\n'
        f'{_names_of_targets(run)} = model.natural_units(predictions, ["{region}"]).unbind(-1)'
    )
    share = (
        "```python\nfrom huggingface_hub import upload_folder\n\n"
        'upload_folder(repo_id="OWNER/NAME", folder_path="model")\n```'
    )
    kept = ""
    if (run.folder / "model" / "catalogue.parquet").is_file():
        kept = (
            "\n\nThe two `catalogue` files beside the weights hold titles, artists and streams of the training data, "
            "for comparables and percentiles. Leave them out where those data may not be passed on: "
            "forecasts need none."
        )
    return f"## Use\n\n```python\n{code}\n```\n\nTo pass it on:\n\n{share}{kept}"


def _intended() -> str:
    return (
        "## Intended use\n\n"
        "For people who plan releases, budgets and catalogues and want a range with its chances, and for research into "
        "what makes music popular. Read the interval, not its middle.\n\n"
        "Not for: deciding alone who is signed, paid or promoted; judging the worth of music or of an artist; songs "
        "that will not chart (nothing here says whether a song charts); speech, podcasts and sound effects; regions "
        "and years far from the data below."
    )


def _data(run: _Run) -> str:
    about, config = _dataset(run), run.config
    lines = [f"- data: {_data_name(run)}"]
    if about.get("sources"):
        lines.append(f"- sources: {', '.join(map(str, about['sources']))}")
    if about.get("counts"):
        lines.append("- rows: " + ", ".join(f"{name} {count:,}" for name, count in about["counts"].items()))
    lines.append(f"- regions: {', '.join(config.get('regions') or [])}")
    states = config.get("region_states") or {}
    if states:
        lines.append(f"- charts known to the model end on {max(state['date'] for state in states.values())}")
    split = (
        "Cross-validated by artist in folds, as there are few songs."
        if isinstance(run.report.get("folds"), int | list) and run.report["folds"]
        else "Dated data are split by time: the test split is the last debuts, validation the half year before it, and "
        "all versions of a song stand on one side. Data without dates are split by artist."
    )
    counts = []
    for name in ("validation", "test"):
        scores: dict[str, Any] = next(iter(run.report.get(name, {}).values()), {})
        if scores.get("n_rows"):
            counts.append(f"{name} {scores['n_rows']:,} debuts by {scores['n_artists']:,} artists")
    told = f" {'; '.join(counts)}." if counts else ""
    return "## Data and split\n\n" + "\n".join(lines) + f"\n\n{split}{told}"


def _results(run: _Run) -> str:
    measures = _MEASURES[run.kind]
    note = (
        "CRPS and MAE are of log10(1 + streams / floor), from nine quantiles; WAPE is of weekly medians, where "
        "forecasting nothing scores 100; `80 % covers` is the share of truths between the .1 and .9 quantiles."
        if run.kind == "MP3Model"
        else "R² is within regions; MAE is in log10 of streams, or in ranks."
    )
    parts = [
        "## Results on the test split\n\nBeside the floors, on the same debuts; in brackets 95 % intervals that "
        f"resample artists. Rank correlations are means over regions. {note}"
    ]
    for target, scores in run.report.get("test", {}).items():
        systems = {run.system: scores} | {name: found[target] for name, found in _rivals(run) if target in found}
        used = [name for name in measures if scores.get(name) is not None]
        rows = [
            [name, *(_with_interval(values, measure, measures[measure][1]) for measure in used)]
            for name, values in systems.items()
        ]
        table = _table(["", *(measures[measure][0] for measure in used)], rows)
        parts.append(f"### {_title(target, run).capitalize()}\n\n{table}{_differences(run, target)}")
    return "\n\n".join(parts)


def _rivals(run: _Run) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Names and test scores by target of floors and, on a simulated market, of who knows its truth."""
    for name, splits in run.report.get("baselines", {}).items():
        yield name.replace("_", " "), splits.get("test", {})
    for name in ("oracle_audio", "oracle"):
        if isinstance(run.report.get(name), dict):
            yield name.replace("_", " "), run.report[name].get("test", {})


def _differences(run: _Run, target: str) -> str:
    """A line a floor: by how much the system differs, and whether that is more than luck."""
    measure = "crps_logfloor" if run.kind == "MP3Model" else "mae"
    heading, decimals, _ = _MEASURES[run.kind][measure]
    lines = []
    for name, values in run.report.get("differences", {}).get("test", {}).get(target, {}).items():
        found = values.get(measure)
        if not found or found.get("value") is None:
            continue
        value, low, high = found["value"], found.get("low"), found.get("high")
        if low is None or high is None:
            said = "no interval"
        else:
            word = (
                "lower, that is better" if high < 0 else "higher, that is worse" if low > 0 else "not distinguishable"
            )
            said = f"[{low:.{decimals}f} {high:.{decimals}f}], {word}"
        lines.append(f"- {heading} less that of {name.replace('_', ' ')}: {value:.{decimals}f} {said}")
    return "\n\n" + "\n".join(lines) if lines else ""


def _with_interval(values: Mapping[str, Any], measure: str, decimals: int) -> str:
    value, interval = values.get(measure), values.get(f"{measure}_ci")
    if value is None:
        return "–"
    if not interval or None in interval:
        return f"{value:.{decimals}f}"
    return f"{value:.{decimals}f} [{interval[0]:.{decimals}f} {interval[1]:.{decimals}f}]"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def _slices(run: _Run, grouping: str) -> Mapping[str, Any]:
    """Slice → scores of the streams to come from debut, where the run was evaluated by slices."""
    split = run.evaluation.get("split", "test")
    found = run.evaluation.get("slices", {}).get(split, {}).get("total", {}).get(grouping)
    return found or {}


def _slice_table(run: _Run, slices: Mapping[str, Any], head: str) -> str:
    leader = run.evaluation["leader"]
    others = [name for name in next(iter(slices.values()))["systems"] if name != leader][:3]
    rows = [
        [label, f"{found['n']:,}", *(_slice_score(found["systems"].get(name)) for name in (leader, *others))]
        for label, found in slices.items()
    ]
    return _table([head, "debuts", leader, *others], rows)


def _slice_score(found: Mapping[str, Any] | None) -> str:
    if not found or found.get("value") is None:
        return "–"
    interval = "" if found.get("low") is None else f" [{found['low']:.3f} {found['high']:.3f}]"
    return f"{found['value']:.3f}{interval}"


def _regions(run: _Run) -> str:
    head = "## Results by region"
    sliced = _slices(run, "region")
    if sliced:
        return f"{head}\n\nCRPS of the total at debut.\n\n{_slice_table(run, sliced, 'region')}"
    total = run.report.get("test", {}).get("total", {})
    measures = _MEASURES[run.kind]
    if total.get("regions"):
        rows = [
            [
                region,
                f"{values['n']:,}",
                *(_with_interval(values, name, digits[1]) for name, digits in measures.items()),
            ]
            for region, values in total["regions"].items()
        ]
        return f"{head}\n\n{_table(['region', 'rows', *(one[0] for one in measures.values())], rows)}"
    covered = (total.get("calibration") or {}).get("cov80_regions") or {}
    if covered:
        rows = [[region, f"{share:.3f}"] for region, share in covered.items() if share is not None]
        return (
            f"{head}\n\nShare of totals inside the 80 % interval at debut; `recipes/evaluate.py` has errors by region, "
            f"and its report.json given by `--report` puts them here.\n\n{_table(['region', '80 % covers'], rows)}"
        )
    return f"{head}\n\nNot measured in this run: give the report.json of `recipes/evaluate.py` by `--report`."


def _new_artists(run: _Run) -> str:
    head = "## New artists"
    kinds = {name: found for name, found in _slices(run, "kind").items() if name in ("new artists", "other artists")}
    if not kinds:
        return (
            f"{head}\n\nNot measured in this run: give the report.json of `recipes/evaluate.py` by `--report`. Expect "
            "less than above, since nothing is known of them but the song."
        )
    return (
        f"{head}\n\nArtists without another song charted anywhere by the cut-off; CRPS of the total at debut.\n\n"
        f"{_slice_table(run, kinds, '')}"
    )


def _limits(run: _Run) -> str:
    lines = [
        "Sound explains little of real popularity, and part of it is luck (Salganik, Dodds and Watts 2006): intervals "
        "are wide because the future is.",
        "Every number is given that the song charts; streams below a chart are not seen, and count 0.",
        "The scale of a region is its chart at the end of the data: forecasts far later than that carry a flag.",
    ]
    if "simulated" in _data_name(run):
        lines.insert(
            0,
            "**It learnt a simulated market, rendered by a program.** It knows nothing of real music or real charts: "
            "use it to try the software.",
        )
    calibration = run.report.get("test", {}).get("total", {}).get("calibration") or {}
    if calibration.get("cov80_top") is not None:
        held, right = calibration["cov80_top"], calibration.get("cov80_top_if_right")
        line = f"Of the tenth of songs with most streams the 80 % intervals at debut hold {held:.0%}"
        if right is not None:
            line += f"; a right forecast that knows no more would hold {right:.0%}"
        lines.append(f"{line}.")
    notes = run.report.get("notes") or []
    lines += [str(note) for note in ([notes] if isinstance(notes, str) else notes)]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _training(run: _Run) -> str:
    rows = [
        [name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value)]
        for name in _TOLD
        if (value := run.arguments.get(name)) not in (None, [], "") and not _is_path(value)
    ]
    recipe = "recipes/mp3.py" if run.kind == "MP3Model" else "recipes/mp2.py"
    table = f"\n\n{_table(['option', 'value'], rows)}" if rows else ""
    return f"## Training\n\nBy `{recipe}` of mp3model.{table}"


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and os.sep in value and Path(value).is_absolute()


def _licence(licence: str) -> str:
    return (
        f"## Licence\n\nWeights: {licence}. The software is Apache-2.0. The data are not part of this folder, but for "
        "a catalogue where there is one, and keep the licence of whoever they belong to."
    )
