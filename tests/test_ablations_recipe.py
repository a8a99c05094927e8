"""recipes/ablations.py: which runs arms share, what a table says of known errors, and the whole on a tiny market."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "ablations.py"
ENVIRONMENT = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
MARKET = json.dumps({"songs": 60, "seed": 3})


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """The recipe's names, as a process that it spawned would see them: read, but not run."""
    before = sys.argv
    sys.argv = [str(RECIPE)]
    try:
        return runpy.run_path(str(RECIPE), run_name="__mp_main__")
    finally:
        sys.argv = before


def errors(crps: float, seed: int, order: int = 1, songs: int = 40) -> pd.DataFrame:
    """Made errors: two regions of so many songs by ten artists, CRPS about the value given, ranked right or wrong."""
    noise = np.random.default_rng(seed).normal(0, 0.01, 2 * songs)
    number = np.tile(np.arange(songs), 2)
    true = 100.0 + number
    return pd.DataFrame(
        {
            "song_id": [f"s{n:02d}" for n in number],
            "region": np.repeat(["GB", "US"], songs),
            "artist": [f"a{n % 10}" for n in number],
            "observed": 0,
            "score": order * true,
            "crps": crps + noise,
            "mae": 2 * crps + noise,
            "absolute_error": true / 2,
            "true": true,
        }
    )


def started(*words: object) -> list[str]:
    return [sys.executable, str(RECIPE), *map(str, words)]


def refused(*words: object) -> str:
    done = subprocess.run(started(*words), capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_arms_with_the_same_options_share_a_run_and_others_do_not(recipe):
    arms = recipe["ablations"]()
    run_of = recipe["run_of"]
    base = run_of(arms["region"].arms["token"], 0, MARKET)
    for name, arm in (("position", "sum"), ("augmentation", "all"), ("versions", "included")):
        assert run_of(arms[name].arms[arm], 0, MARKET).name == base.name
    # Another decoder on the same ears needs no other MP2 run.
    decoder = run_of(arms["position"].arms["concat, decoder alone"], 0, MARKET)
    assert decoder.name != base.name
    assert decoder.ears == base.ears
    everything = [run_of(arm, 0, MARKET) for ablation in arms.values() for arm in ablation.arms.values()]
    assert len({run.name for run in everything}) == len(set(everything)) < len(everything)
    # The seed, the market and what MP2 was told are part of the name.
    others = [
        run_of(arms["region"].arms["token"], 1, MARKET),
        run_of(arms["region"].arms["token"], 0, MARKET.replace("60", "61")),
        run_of(arms["pretraining"].arms["untrained, frozen"], 0, MARKET),
        run_of(arms["versions"].arms["left out"], 0, MARKET),
    ]
    assert len({run.name for run in [base, *others]}) == 5
    assert others[2].options == base.options


def test_every_arm_differs_from_its_reference_and_asks_for_options_that_the_recipes_have(recipe):
    known = {}
    for name in ("mp2", "mp3"):
        told = subprocess.run(
            [sys.executable, str(ROOT / "recipes" / f"{name}.py"), "--help"], capture_output=True, text=True, check=True
        )
        known[name] = set(told.stdout.replace(",", " ").split())
    for ablation in recipe["ablations"]().values():
        runs = [recipe["run_of"](arm, 0, MARKET) for arm in ablation.arms.values()]
        assert len({run.name for run in runs}) == len(runs)
        for run in runs:
            for each in filter(None, (run, run.ears)):
                assert {word for word in each.words() if word.startswith("--")} <= known[each.recipe]


def test_augmentations_alone_have_that_one_and_none_of_the_others(recipe):
    arms = recipe["ablations"]()["augmentation"].arms
    off = {"gain": 0.0, "roll": 0.0, "alternate": False, "frequency_mask": 0, "time_mask": 0, "shift": 0}
    on = {}
    for name, arm in arms.items():
        options = dict(recipe["run_of"](arm, 0, MARKET).ears.options)
        on[name] = {option for option, value in off.items() if options[option] != value}
    masks = {"frequency_mask", "time_mask"}
    assert on.pop("none") == set()
    assert on.pop("SpecAugment") == masks
    assert on.pop("all") == set(off)
    assert on == {name: {name} for name in ("gain", "roll", "alternate", "shift")}


def test_a_better_arm_has_an_interval_below_zero_and_an_equal_one_holds_it(recipe):
    found = recipe["compared"](
        {
            "reference": [errors(0.5, 0), errors(0.7, 1)],
            "better": [errors(0.4, 2), errors(0.6, 3, order=-1)],
            "equal": [errors(0.5, 4), errors(0.7, 5)],
        }
    )
    assert "difference" not in found["reference"]
    assert found["reference"]["mean"]["crps"] == pytest.approx(0.6, abs=0.005)
    assert found["reference"]["deviation"]["crps"] == pytest.approx(0.2 / np.sqrt(2), abs=0.005)
    assert found["reference"]["mean"]["wape"] == pytest.approx(50)
    better, equal = found["better"]["difference"], found["equal"]["difference"]
    assert better["crps"]["value"] == pytest.approx(-0.1, abs=0.005)
    assert better["crps"]["low"] < better["crps"]["value"] < better["crps"]["high"] < 0
    assert better["mae"]["value"] == pytest.approx(-0.2, abs=0.005)
    assert equal["crps"]["low"] < 0 < equal["crps"]["high"]
    # Ranked right with one seed and wrong way round with the other: 0 in the mean, 1 less than the reference's 1.
    assert found["better"]["mean"]["spearman"] == pytest.approx(0)
    assert better["spearman"]["value"] == pytest.approx(-1)
    assert better["spearman"]["high"] < 0
    assert equal["wape"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_rows_are_matched_by_name_and_other_rows_are_refused(recipe):
    mixed = errors(0.5, 0).sample(frac=1, random_state=1)
    difference = recipe["compared"]({"a": [errors(0.5, 0)], "b": [mixed]})["b"]["difference"]["crps"]
    assert difference["low"] == difference["high"] == pytest.approx(0)
    with pytest.raises(ValueError, match="b and a forecast other debuts"):
        recipe["compared"]({"a": [errors(0.5, 0)], "b": [errors(0.5, 0, songs=39)]})


def test_tables_say_what_the_report_holds_and_regions_too_small_have_no_rank_correlation(recipe):
    arms = recipe["compared"]({"yes": [errors(0.5, 0, songs=20)], "no": [errors(0.6, 0, songs=20)]})
    costs = {"runs": [], "mp2_seconds": None, "mp3_seconds": 61.2, "seconds_1000_paths": 0.02}
    told = {"question": "So?", "reference": "yes", "seeds": [0], "debuts": 40, "artists": 10}
    told |= {"arms": {"yes": costs, "no": costs}, "targets": {"true_remaining_1": arms}}
    report = {"market": {"songs": 60, "seed": 3}, "split": "test", "ablations": {"nulls": told}}
    lines = [line for line in recipe["markdown"](report).splitlines() if line.startswith("| no")]
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert cells == ["no", "1", *cells[2:4], "–", "50.0", "–", *cells[7:8], "–", "0.0 [0.0 0.0]", "–", "61", "0.020"]
    assert cells[7] == "0.100 [0.100 0.100]"
    plain = recipe["plain_text"](report)
    assert "nulls, all streams after 1 observed week(s)" in plain
    assert "0.100 [0.100 0.100]" in plain


def test_unknown_names_and_seeds_given_twice_are_refused_in_one_line(tmp_path):
    assert "--only nonsense is none of pretraining, charted, region" in refused("--only", "nulls", "nonsense")
    assert "--seeds 1 1: give at least one, each once" in refused("--seeds", 1, 1, "--output_dir", tmp_path)
    assert "--jobs 0" in refused("--jobs", 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_set_goes_on_shares_runs_and_ends_in_a_table(tmp_path):
    market = tmp_path / "market"
    words = ["--songs", "60", "--seed", "3", "--oracle-runs", "0", "--workers", "1", "--out", str(market)]
    subprocess.run([sys.executable, "-m", "data_prep.market", *words], check=True, capture_output=True, env=ENVIRONMENT)
    folder = tmp_path / "run"
    small = ["--epochs", 1, "--curve_epochs", 2, "--tuning_epochs", 1, "--frames", 128, "--paths", 16]
    line = started("--data", market, "--output_dir", folder, "--only", "nulls", "versions", "--seeds", 0, *small)
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    deadline = time.monotonic() + 250
    # The first run is finished, and another has begun to learn.
    while not (any(folder.glob("runs/*/report.json")) and any(folder.glob("runs/mp3*/checkpoint-*"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert not (folder / "report.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/report.json")}
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"7 runs, {len(finished)} finished already" in done.stdout
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
    assert any("going on from" in path.read_text() for path in folder.glob("runs/mp3*/log.txt"))
    report = json.loads((folder / "report.json").read_text())
    nulls, versions = report["ablations"]["nulls"], report["ablations"]["versions"]
    assert set(nulls["targets"]) == {f"{t}{k}" for t in ("true_", "") for k in ("total", "remaining_1", "remaining_2")}
    for arm in ("masked", "zero"):
        difference = nulls["targets"]["true_total"][arm]["difference"]["crps"]
        assert difference["low"] <= difference["value"] <= difference["high"]
    # What lies below the chart is part of the truth there, so the two truths give other errors.
    assert nulls["targets"]["true_total"]["censored"]["mean"] != nulls["targets"]["total"]["censored"]["mean"]
    assert nulls["arms"]["censored"]["mp2_seconds"] is None
    assert versions["arms"]["included"]["mp2_seconds"] > 0
    assert versions["arms"]["included"]["seconds_1000_paths"] > 0
    # Training songs lost clips, test songs none.
    whole, less = (pd.read_parquet(place / "previews.parquet") for place in (market, folder / "without-versions"))
    splits, tracks = (pd.read_parquet(market / f"{name}.parquet") for name in ("splits", "tracks"))
    test = splits.loc[splits["split"] == "test", "track_id"]
    songs = tracks.loc[tracks["track_id"].isin(test), "song_id"]
    asked = tracks.loc[tracks["song_id"].isin(songs), "track_id"]
    gone = set(whole["track_id"]) - set(less["track_id"])
    assert gone
    assert not gone & set(asked)
    titles = tracks.set_index("track_id")["title"]
    assert all(titles[track].endswith((" - Live", " - Instrumental")) for track in gone)
    again = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*")}
    assert subprocess.run(line, capture_output=True, env=ENVIRONMENT, check=False, timeout=120).returncode == 0
    assert again == {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*")}
