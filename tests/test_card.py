"""Model cards: what a hub reads of them, and that every number is one of the run's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tiny_model import write_model

from mp3model.cli import main
from mp3model.files import InputError
from mp3model.serving.card import MARK, model_card, write_card


def scores(crps: float) -> dict:
    """As recipes/mp3.py reports one system at one number of observed periods."""
    found = {"spearman": 0.5123, "crps_logfloor": crps, "mae_logfloor": 0.33, "wape": 87.6, "cov80": 0.79}
    found |= {f"{name}_ci": [value - 0.01, value + 0.01] for name, value in list(found.items())}
    calibration = {"cov80_top": 0.41, "cov80_regions": {"US": 0.77, "GB": 0.82}}
    return found | {"mae_length": None, "n_rows": 926, "n_artists": 190, "calibration": calibration}


def difference(value: float) -> dict:
    return {"crps_logfloor": {"value": value, "low": value - 0.01, "high": value + 0.01}}


REPORT = {
    "validation": {"total": scores(0.27)},
    "test": {"total": scores(0.2556), "remaining_1": scores(0.31)},
    "baselines": {
        "region median": {"test": {"total": scores(0.3033), "remaining_1": scores(0.39)}},
        "carry-forward": {"test": {"remaining_1": scores(0.37)}},
    },
    "differences": {"test": {"total": {"region median": difference(-0.047)}, "remaining_1": {"x": difference(0.005)}}},
    "notes": ["a note of the run"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of MP3 with all that it leaves behind."""
    run = tmp_path_factory.mktemp("card") / "market run"
    write_model(run / "model")
    (run / "report.json").write_text(json.dumps(REPORT))
    arguments = {"data": "/somewhere/secret/my charts", "epochs": 12, "encoder": "/somewhere/secret/ears"}
    (run / "arguments.json").write_text(json.dumps(arguments))
    return run


def evaluation(folder):
    """The slices of recipes/evaluate.py, of one floor beside the model."""

    def one(value):
        told = {"value": value, "low": value - 0.1, "high": value + 0.1}
        return {"n": 1234, "systems": {"MP3": told, "region median": told | {"value": 0.444}}, "differences": {}}

    slices = {"region": {"US": one(0.251)}, "kind": {"new artists": one(0.361), "Christmas": one(0.999)}}
    path = folder / "evaluation.json"
    path.write_text(json.dumps({"split": "test", "leader": "MP3", "slices": {"test": {"total": slices}}}))
    return path


def test_a_hub_reads_the_header_of_a_card(finished):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card(finished, licence="cc-by-4.0"))
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "mp3model"
    assert card.data.pipeline_tag == "time-series-forecasting"
    results = {(one.metric_name, one.metric_value) for one in card.data.eval_results}
    assert ("CRPS, total streams of 12 weeks", 0.2556) in results
    assert ("CRPS, streams after 1 observed week", 0.31) in results
    assert not [name for name, _ in results if name.startswith("MAE length")], "what was not measured is left out"
    assert "crps" in card.data.metrics
    assert card.data.eval_results[0].dataset_name == "my charts"


def test_results_stand_beside_the_floors_with_their_intervals(finished):
    text = model_card(finished)
    assert "| MP3 | 0.512 [0.502 0.522] | 0.256 [0.246 0.266] |" in text
    assert "| region median | 0.512 [0.502 0.522] | 0.303 [0.293 0.313] |" in text
    assert text.count("| carry-forward |") == 1, "it cannot forecast before a week is known"
    assert "CRPS less that of region median: -0.047 [-0.057 -0.037], lower, that is better" in text
    assert "CRPS less that of x: 0.005 [-0.005 0.015], not distinguishable" in text
    assert "test 926 debuts by 190 artists" in text
    assert "80 % intervals at debut hold 41%" in text
    assert "a note of the run" in text
    assert "| US | 0.770 |" in text


def test_a_card_names_no_folder_of_the_one_who_trained(finished):
    text = model_card(finished)
    assert "secret" not in text
    assert "| epochs | 12 |" in text


def test_an_evaluation_brings_errors_by_region_and_of_new_artists(finished, tmp_path):
    without = model_card(finished)
    assert "Not measured in this run" in without
    text = model_card(finished, evaluation(tmp_path))
    assert "| US | 1,234 | 0.251 [0.151 0.351] | 0.444 [0.151 0.351] |" in text
    assert "| new artists | 1,234 | 0.361" in text
    assert "Christmas" not in text
    assert "Not measured in this run" not in text


def test_a_run_of_mp2_has_a_card_too(tmp_path):
    import torch

    from mp3model.config import MP3Config
    from mp3model.model.modeling import MP2Model

    torch.manual_seed(0)
    config = MP3Config(regions=["US"], hidden_size=32, num_hidden_layers=1, num_attention_heads=2, frames=128)
    MP2Model(config).save_pretrained(tmp_path / "model")
    by_region = {"spearman": 0.4, "kendall": 0.3, "r2": 0.1, "mae": 0.4, "n": 229}
    total = {"spearman": 0.52, "kendall": 0.36, "r2": 0.25, "mae": 0.377, "n_rows": 926, "n_artists": 190}
    report = {"test": {"total": total | {"regions": {"US": by_region}}}, "oracle": {"test": {"total": total}}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "arguments.json").write_text(json.dumps({"data": None, "songs": 2000, "market_seed": 3}))
    text = model_card(tmp_path)
    assert "# MP2: simulated market of 2000 songs, seed 3" in text
    assert "nothing of real music" in text
    assert "| MP2 | 0.520 | 0.360 | 0.250 | 0.377 |" in text
    assert "| oracle | 0.520" in text
    assert "| US | 229 | 0.400 |" in text
    assert "MP2Model.from_pretrained" in text


def test_the_command_writes_beside_the_weights_and_again_but_never_over_what_a_person_wrote(finished, capsys):
    assert main(["card", str(finished)]) == 0
    path = finished / "model" / "README.md"
    assert str(path) in capsys.readouterr().out
    first = path.read_text()
    assert MARK in first
    write_card(finished)
    assert path.read_text() == first
    path.write_text("my own words\n")
    with pytest.raises(InputError, match="was written by somebody else"):
        write_card(finished)
    assert path.read_text() == "my own words\n"
    path.unlink()


def test_a_catalogue_of_others_data_is_warned_of(finished):
    assert "catalogue" not in model_card(finished).split("## Intended use")[0]
    (finished / "model" / "catalogue.parquet").write_bytes(b"")
    try:
        assert "Leave them out where those data may not be passed on" in model_card(finished)
    finally:
        (finished / "model" / "catalogue.parquet").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "report.json").unlink(), "no report.json"),
        (lambda run: (run / "report.json").write_text("{"), "report.json: cannot be read"),
        (lambda run: (run / "report.json").write_text("[]"), "holds a list"),
        (lambda run: (run / "model" / "config.json").unlink(), "no model/config.json"),
        (lambda run: (run / "model" / "model.safetensors").write_bytes(b"x" * 40), "the run is not whole"),
        (lambda run: (run / "model" / "config.json").write_text('{"architectures": ["Bert"]}'), "holds an Bert"),
    ],
)
def test_what_is_no_whole_run_is_refused_in_one_line(tmp_path, damage, said):
    write_model(tmp_path / "model")
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    damage(tmp_path)
    with pytest.raises(InputError, match=said) as refused:
        model_card(tmp_path)
    assert len(str(refused.value).splitlines()) == 1


def test_the_folder_of_a_model_is_told_from_that_of_its_run(finished):
    with pytest.raises(InputError, match="do you mean"):
        model_card(finished / "model")


def test_a_report_without_slices_is_refused(finished):
    with pytest.raises(InputError, match="has no slices"):
        model_card(finished, finished / "report.json")


def test_the_command_explains_itself():
    words = [sys.executable, "-m", "mp3model.cli", "card", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "--report" in done.stdout
    assert "--license" in done.stdout
