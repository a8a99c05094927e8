"""Ranking measures, scores with intervals, and the closing table: against SciPy, scikit-learn and hand-made values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from mp3model.evaluation import ranking
from mp3model.evaluation.accuracy import LEVELS, QUANTILES, crps_from_quantiles, path_quantiles
from mp3model.evaluation.bootstrap import Interval, bootstrap_weights
from mp3model.evaluation.ranking import (
    kendall,
    kendall_replicates,
    somers_d,
    somers_d_replicates,
    spearman,
    spearman_replicates,
)
from mp3model.evaluation.report import WIDTH, closing_table, predicted_against_true, write_report
from mp3model.evaluation.scalar_scores import METRICS, paired_difference, r2_replicates, score_scalar, skill_scores
from mp3model.files import InputError

MEASURES = {
    "spearman": (spearman, spearman_replicates, lambda x, y: scipy.stats.spearmanr(x, y).statistic),
    "kendall": (kendall, kendall_replicates, lambda x, y: scipy.stats.kendalltau(x, y).statistic),
    "somers_d": (somers_d, somers_d_replicates, lambda x, y: scipy.stats.somersd(x, y).statistic),
}
with_ties = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=40)


@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=40),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_quantiles_of_paths_are_median_unbiased_in_order_and_within_the_paths(numbers, levels):
    paths = np.array(numbers)
    known = paths[~np.isnan(paths)]
    found = path_quantiles(np.stack([paths, paths[::-1]], axis=1), levels, axis=0)
    assert found.shape == (len(levels), 2)
    if not len(known):
        assert np.isnan(found).all()
        return
    expected = np.quantile(known, levels, method="median_unbiased")
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-9, atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    assert ((found >= known.min()) & (found <= known.max())).all()
    assert (np.diff(found[np.argsort(levels)], axis=0) >= 0).all()


def test_an_interval_of_a_hundred_paths_holds_as_many_of_the_truths_as_it_says():
    generator = np.random.default_rng(0)
    paths, truth = generator.lognormal(size=(40_000, 100)), generator.lognormal(size=40_000)
    low, high = path_quantiles(paths, (0.1, 0.9))
    held = ((truth >= low) & (truth <= high)).mean()
    narrow = np.quantile(paths, (0.1, 0.9), axis=1)
    # By the theory of order statistics .795 and .784; independent paths are further apart than those of a decoder.
    assert held == pytest.approx(0.795, abs=0.006)
    assert held > ((truth >= narrow[0]) & (truth <= narrow[1])).mean() + 0.008


def test_hand_made_rankings():
    # Three of the ten pairs are the wrong way round: (1,3), (1,2) and (4,5) in the second list's terms.
    true, predicted = [1, 2, 3, 4, 5], [3, 1, 2, 5, 4]
    assert spearman(true, predicted) == pytest.approx(1 - 6 * (4 + 1 + 1 + 1 + 1) / (5 * 24))
    assert kendall(true, predicted) == pytest.approx((7 - 3) / 10)
    assert somers_d(true, predicted) == pytest.approx((7 - 3) / 10)
    # The tie in the prediction costs tau-b half of what it costs D: 2 right, 0 wrong, 1 undecided.
    assert kendall([1, 2, 3], [1, 2, 2]) == pytest.approx(2 / np.sqrt(3 * 2))
    assert somers_d([1, 2, 3], [1, 2, 2]) == pytest.approx(2 / 3)
    assert somers_d([1, 2, 2], [1, 2, 3]) == pytest.approx(1)


@pytest.mark.parametrize("name", MEASURES)
@given(pairs=with_ties)
def test_measures_equal_scipy_with_ties(name: str, pairs: list[tuple[int, int]]):
    measure, _, reference = MEASURES[name]
    x, y = np.array(pairs, float).T
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert measure(x, y) == 0
    else:
        assert measure(x, y) == pytest.approx(reference(x, y), abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
@given(pairs=with_ties, seed=st.integers(0, 1000))
def test_order_is_all_that_counts(name: str, pairs: list[tuple[int, int]], seed: int):
    measure = MEASURES[name][0]
    x, y = np.array(pairs, float).T
    value = measure(x, y)
    assert -1 <= value <= 1
    assert measure(np.exp(x), y**3) == pytest.approx(value, abs=1e-12)
    assert measure(x, -y) == pytest.approx(-value, abs=1e-12)
    mixed = np.random.default_rng(seed).permutation(len(x))
    assert measure(x[mixed], y[mixed]) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_pairs_with_nan_are_dropped_and_nothing_to_order_is_zero(name: str):
    measure, replicates, _ = MEASURES[name]
    x, y = [1, 2, np.nan, 3, 4], [1, 3, 9, np.nan, 2]
    assert measure(x, y) == measure([1, 2, 4], [1, 3, 2])
    assert measure([1, 2], [1, 2]) == 0
    assert measure([], []) == 0
    assert measure([np.nan] * 4, [1, 2, 3, 4]) == 0
    assert measure([5, 5, 5, 5], [1, 2, 3, 4]) == 0
    assert measure([1, 2, 3, 4], [0.1, 0.1, 0.1, 0.1]) == 0
    # A replicate that drew too little says so; one in which nothing differs shows no order.
    drawn = replicates([1, 2, 3], [1, 2, 3], np.array([[1, 1, 0], [3, 0, 0], [1, 1, 1]]))
    assert np.isnan(drawn[0])
    assert drawn[1:].tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize("name", MEASURES)
def test_replicates_equal_the_measure_of_the_repeated_rows(name: str, monkeypatch: pytest.MonkeyPatch):
    _, replicates, reference = MEASURES[name]
    rng = np.random.default_rng(3)
    true = rng.integers(0, 40, 120).astype(float)
    predicted = true + rng.integers(-20, 20, 120)
    predicted[::17] = np.nan
    weights = bootstrap_weights(rng.integers(0, 25, 120), 15, seed=1)
    # Blocks smaller than the replicates must not show either.
    monkeypatch.setattr(ranking, "_BLOCK", 500)
    known = ~np.isnan(predicted)
    expected = [reference(np.repeat(true[known], w[known]), np.repeat(predicted[known], w[known])) for w in weights]
    np.testing.assert_allclose(replicates(true, predicted, weights), expected, atol=1e-12)


def test_the_bootstrap_draws_whole_artists():
    artists = np.array(["a", "b", "a", "c", "c", "c", None], dtype=object)
    weights = bootstrap_weights(artists, 5000, seed=0)
    assert weights.shape == (5000, 7)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 1, 3, 6]].sum(axis=1) == 4).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    assert weights[:, 1].var() == pytest.approx(0.75, abs=0.05)  # binomial: 4 draws at 1/4
    np.testing.assert_array_equal(weights, bootstrap_weights(artists, 5000, seed=0))
    assert (weights != bootstrap_weights(artists, 5000, seed=1)).any()


def rows(n: int = 300, seed: int = 0, noise: float = 1.0, regions: str = "US GB BR") -> pd.DataFrame:
    """Songs in regions of very different size, several songs an artist."""
    rng = np.random.default_rng(seed)
    names = regions.split()
    frame = pd.DataFrame(
        {"song_id": [f"s{i // len(names)}" for i in range(n)], "region": [names[i % len(names)] for i in range(n)]}
    )
    frame["artist"] = "artist " + (frame.index // 12).astype(str)
    size = frame["region"].map({name: 3.0 * i for i, name in enumerate(names)})
    song = np.repeat(rng.normal(size=-(-n // len(names))), len(names))[:n]
    return frame.assign(true=size + song, predicted=size + song + noise * rng.normal(size=n))


def test_scores_equal_scipy_and_scikit_learn():
    frame = rows()
    scores = score_scalar(frame, "total", replicates=20)
    true, predicted = frame["true"], frame["predicted"]
    each = [part for _, part in frame.groupby("region")]
    assert scores["spearman"] == pytest.approx(np.mean([scipy.stats.spearmanr(p.true, p.predicted)[0] for p in each]))
    assert scores["kendall"] == pytest.approx(np.mean([scipy.stats.kendalltau(p.true, p.predicted)[0] for p in each]))
    assert scores["spearman_pooled"] == pytest.approx(scipy.stats.spearmanr(true, predicted)[0])
    assert scores["kendall_pooled"] == pytest.approx(scipy.stats.kendalltau(true, predicted)[0])
    assert scores["r2_pooled"] == pytest.approx(sklearn.metrics.r2_score(true, predicted))
    centre = frame.groupby("region")["true"].transform("mean")
    assert scores["r2"] == pytest.approx(sklearn.metrics.r2_score(true - centre, predicted - centre))
    assert scores["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(true, predicted))
    british = scores["regions"]["GB"]
    part = frame[frame["region"] == "GB"]
    assert british["r2"] == pytest.approx(sklearn.metrics.r2_score(part["true"], part["predicted"]))
    assert british["spearman"] == pytest.approx(spearman(part["true"], part["predicted"]))
    assert british["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(part["true"], part["predicted"]))
    assert (british["n"], scores["n_songs"], scores["n_rows"], scores["n_artists"]) == (100, 100, 300, 25)
    assert scores["unit"] == "log10 streams"


def test_the_size_of_the_markets_counts_only_when_pooled():
    frame = rows()
    frame["predicted"] = frame.groupby("region")["true"].transform("mean")
    scores = score_scalar(frame, "total", replicates=50)
    assert scores["spearman"] == scores["kendall"] == 0
    assert scores["spearman_ci"] == [0, 0]
    assert scores["r2"] == pytest.approx(0, abs=1e-12)
    assert scores["spearman_pooled"] > 0.8
    assert scores["r2_pooled"] > 0.8


def test_r2_within_groups_of_each_replicate():
    rng = np.random.default_rng(0)
    true, predicted, group = rng.normal(size=30) + 1e6, rng.normal(size=30) + 1e6, rng.integers(0, 3, 30)
    weights = bootstrap_weights(np.arange(30), 8, 0)
    for value, w in zip(r2_replicates(true, predicted, weights, group), weights, strict=True):
        t, p, g = (np.repeat(v, w) for v in (true, predicted, group))
        means = pd.Series(t).groupby(g).transform("mean").to_numpy()
        assert value == pytest.approx(1 - ((t - p) ** 2).sum() / ((t - means) ** 2).sum(), rel=1e-6)
    constant = r2_replicates(np.full(30, 0.1), predicted, weights, group)
    assert np.isnan(constant).all()


def test_intervals_hold_the_value_and_are_wider_when_artists_repeat():
    frame = rows(600, noise=2.0)
    by_artist = score_scalar(frame, "total", replicates=300)
    for metric in METRICS:
        low, high = by_artist[f"{metric}_ci"]
        assert low < by_artist[metric] < high
    # The same rows four times over carry no more information: intervals by artist must not shrink.
    fourfold = pd.concat([frame.assign(song_id=frame["song_id"] + str(i)) for i in range(4)])
    again = score_scalar(fourfold, "total", replicates=300)
    alone = score_scalar(fourfold.assign(artist=np.arange(len(fourfold))), "total", replicates=300)

    def width(scores: dict) -> float:
        return scores["spearman_ci"][1] - scores["spearman_ci"][0]

    assert width(again) == pytest.approx(width(by_artist), rel=0.1)
    assert width(alone) < 0.7 * width(again)


def test_intervals_cover_what_they_should():
    # True correlation of ranks 6/π · asin(ρ/2) with ρ = 1/√2, 60 independent songs a sample.
    truth = 6 / np.pi * np.arcsin(0.5 / np.sqrt(2))
    covered = 0
    for seed in range(150):
        frame = rows(60, seed=seed, regions="US").assign(artist=range(60))
        low, high = score_scalar(frame, "total", seed=seed, replicates=100)["spearman_ci"]
        covered += low <= truth <= high
    assert 0.87 <= covered / 150 <= 0.99


def test_small_regions_do_not_count_in_the_mean():
    frame = pd.concat([rows(90), rows(9, regions="IS").assign(predicted=lambda f: -f["true"])])
    scores = score_scalar(frame, "total", replicates=20)
    assert scores["n_regions"] == 3
    assert scores["spearman"] > 0.4
    assert scores["regions"]["IS"]["spearman"] == pytest.approx(-1)
    with_all = score_scalar(frame, "total", replicates=20, minimum_rows=9)
    assert with_all["spearman"] == pytest.approx((3 * scores["spearman"] - 1) / 4)


def test_scores_are_json_even_where_nothing_can_be_said():
    frame = rows(30)
    frame.loc[0, "predicted"] = np.nan
    frame.loc[1, "true"] = np.nan
    cases = {
        "few": frame.iloc[:8],
        "one row": frame.iloc[[5]],
        "none": frame.iloc[:0],
        "one artist": rows(12),
        "constant truth": rows(60).assign(true=3.0),
    }
    for name, part in cases.items():
        scores = score_scalar(part, "total", replicates=10)
        json.dumps(scores, allow_nan=False)
        assert scores["n_rows"] == part[["true", "predicted"]].notna().all(axis=1).sum(), name
    assert score_scalar(cases["few"], "total", replicates=10)["spearman"] is None
    assert score_scalar(cases["few"], "total", replicates=10)["n_rows"] == 6
    assert score_scalar(cases["one artist"], "total", replicates=10)["mae_ci"] is None
    assert score_scalar(cases["constant truth"], "total", replicates=10)["r2"] is None
    assert score_scalar(cases["none"], "total", replicates=10)["mae"] is None


def test_songs_without_artist_are_drawn_one_by_one():
    frame = rows(60)
    named = score_scalar(frame.assign(artist=frame["song_id"]), "total", replicates=50)
    unnamed = score_scalar(frame.assign(artist=None), "total", replicates=50)
    assert unnamed == named
    assert unnamed["n_artists"] == 20


def test_the_same_seed_gives_the_same_intervals():
    assert score_scalar(rows(), "total", replicates=50) == score_scalar(rows(), "total", replicates=50)
    assert score_scalar(rows(), "total", 1, 50)["mae_ci"] != score_scalar(rows(), "total", 0, 50)["mae_ci"]


def test_a_difference_is_that_of_the_scores_with_a_narrower_interval():
    good, bad = rows(noise=1.0), rows(noise=1.3)
    for metric in METRICS:
        found = paired_difference(good, bad.sample(frac=1, random_state=0), metric, replicates=300)
        a, b = (score_scalar(f, "total", replicates=300) for f in (good, bad))
        assert found.value == pytest.approx(a[metric] - b[metric])
        assert found.low < found.value < found.high
        assert found.high - found.low < a[f"{metric}_ci"][1] - a[f"{metric}_ci"][0]
        # Both err in the same direction on each row, so the better one is known to be better.
        assert found.high < 0 if metric == "mae" else found.low > 0
    assert paired_difference(good, good, replicates=20) == Interval(0.0, 0.0, 0.0)


def test_a_difference_counts_rows_that_both_predict():
    a, b = rows(), rows(seed=0, noise=2.0)
    b.loc[b.index[:150], "predicted"] = np.nan
    found = paired_difference(a, b, "mae", replicates=10)
    scores = [score_scalar(f.iloc[150:], "total", replicates=10)["mae"] for f in (a, b)]
    assert found.value == pytest.approx(scores[0] - scores[1])


def test_differences_of_other_rows_are_refused():
    frame = rows(30)
    with pytest.raises(InputError, match="metric 'auc' is not known; use one of spearman"):
        paired_difference(frame, frame, "auc")
    with pytest.raises(InputError, match="30 and 29 rows share 29"):
        paired_difference(frame, frame.iloc[1:])
    with pytest.raises(InputError, match="song 's0' in US has two predictions"):
        paired_difference(pd.concat([frame, frame.iloc[[0]]]), frame)
    with pytest.raises(InputError, match="song 's0' in US has the truths"):
        paired_difference(frame, frame.assign(true=frame["true"] + 1))


def report() -> dict:
    scores = {target: score_scalar(rows(), target, replicates=20) for target in ("total", "debut_rank")}
    poor = {target: score_scalar(rows(noise=30), target, replicates=20) for target in ("total", "debut_rank")}
    difference = vars(paired_difference(rows(), rows(noise=30), replicates=20))
    return {
        "validation": scores,
        "test": scores,
        "baselines": {"region_mean": {"test": poor}, "ridge_on_mean_log-mel": {"test": poor, "validation": poor}},
        "oracle": {"test": {"total": scores["total"]}},
        "differences": {"test": {"total": {"region_mean": {"spearman": difference}}}},
    }


def test_the_closing_table_shows_every_system_target_and_region():
    content = report()
    table = closing_table(content)
    assert max(len(line) for line in table.splitlines()) <= WIDTH == 110
    total, rank = table.split("\n\n")
    for section in (total, rank):
        names = [line.split("  ")[0] for line in section.splitlines()[3:7]]
        assert names == ["MP2", "MP2, pooled", "region mean", "ridge on mean log-mel"]
        assert [line.split()[0] for line in section.splitlines() if line.startswith("  ") and "]" in line] == [
            "BR",
            "GB",
            "US",
        ]
    assert "oracle" in total
    assert "oracle" not in rank
    assert "MAE log10" in total
    assert "MAE ranks" in rank
    scores = content["test"]["total"]
    assert f"{scores['spearman']:.3f} [{scores['spearman_ci'][0]:.2f} {scores['spearman_ci'][1]:.2f}]" in total
    assert f"{scores['r2_pooled']:.3f} [" in total
    difference = content["differences"]["test"]["total"]["region_mean"]["spearman"]
    shown = f"{difference['value']:.3f} [{difference['low']:.3f} {difference['high']:.3f}]"
    assert f"MP2 less region mean, spearman: {shown}" in total
    assert "100 songs, 300 rows, 25 artists" in total


def test_columns_line_up_and_stay_narrow_with_large_and_negative_numbers():
    content = report()
    content["test"]["total"]["regions"]["BR"] |= {"kendall": 0.0004, "kendall_ci": [-0.004, 0.004]}
    wide = {"spearman": -0.9876, "kendall": -0.9876, "r2": -1234.5678, "mae": 1234.5678}
    wide |= {"spearman_ci": [-0.999, -0.123], "kendall_ci": [-0.999, -0.123]}
    wide |= {"r2_ci": [-99999.4, -0.123], "mae_ci": [1000.4, 99999.4], "n_songs": 12345}
    content["baselines"]["region_mean"]["test"]["total"] |= wide
    content["test"]["total"]["regions"]["US"] |= {"r2": None, "r2_ci": None, "mae": 12.3456, "mae_ci": [9.876, 100.6]}
    section = closing_table(content).split("\n\n")[0]
    lines = section.splitlines()[2:]
    assert max(map(len, lines)) <= WIDTH
    rows_of_table = [line for line in lines if " less " not in line]
    assert len({len(line) for line in rows_of_table}) == 1
    assert "-0.988 [-1.00 -0.12] -0.988 [-1.00 -0.12] -1235 [-99999 -0.12] 1235 [1000 99999] 12345" in section
    assert "12.35 [9.88 101]" in section
    assert "0.000 [0.00 0.00]" in section
    assert "undefined" in section


def test_a_report_without_the_split_says_so():
    assert closing_table({"validation": {}}) == "No scores of the test split."


def test_reports_are_plain_json(tmp_path: Path):
    write_report(
        tmp_path / "report.json", {"a": np.float32(0.5), "b": [np.nan, np.int64(3)], "c": {1: np.array([np.inf, 2])}}
    )
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == {"a": 0.5, "b": [None, 3], "c": {"1": [None, 2.0]}}
    write_report(tmp_path / "report.json", report())
    assert json.loads((tmp_path / "report.json").read_text())["test"]["total"]["n_rows"] == 300


@pytest.mark.parametrize("regions", ["US", "US GB BR JP DE", ""])
def test_the_picture_has_a_panel_a_region(tmp_path: Path, regions: str):
    frame = rows(60, regions=regions) if regions else rows(3).iloc[:0]
    predicted_against_true(frame, tmp_path / "picture.png", "total")
    content = (tmp_path / "picture.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    panels = max(1, len(regions.split()))
    assert width == pytest.approx(120 * (3 * min(4, panels) + 0.6), abs=1)
    assert height == pytest.approx(120 * (3 * -(-panels // 4) + 0.6), abs=1)


def test_a_score_takes_the_place_of_the_prediction_in_ranks_alone():
    frame = pd.DataFrame(
        {
            "song_id": [str(n) for n in range(12)],
            "artist": [str(n % 6) for n in range(12)],
            "region": "US",
            "true": np.arange(12.0),
            "predicted": np.arange(12.0)[::-1],
        }
    )
    ranked = frame.assign(score=np.arange(12.0))
    assert score_scalar(frame, "total", replicates=20)["spearman"] == pytest.approx(-1)
    scores = score_scalar(ranked, "total", replicates=20)
    assert [scores["spearman"], scores["kendall"], scores["regions"]["US"]["spearman"]] == pytest.approx([1, 1, 1])
    assert scores["mae"] == score_scalar(frame, "total", replicates=20)["mae"]
    assert paired_difference(ranked, frame, "spearman", replicates=20).value == pytest.approx(2)
    assert paired_difference(ranked, frame, "mae", replicates=20).value == 0


def test_crps_equals_the_loss_of_each_quantile_written_out():
    true, quantiles = np.array([2.0, -1.0]), np.array([np.arange(1.0, 10.0), np.arange(9.0, 0.0, -1.0)])
    expected = []
    for value, row in zip(true, quantiles, strict=True):
        losses = [
            level * (value - q) if value >= q else (1 - level) * (q - value)
            for level, q in zip(LEVELS, sorted(row), strict=True)
        ]
        expected.append(2 * sum(losses) / 9)
    assert crps_from_quantiles(true, quantiles) == pytest.approx(expected)
    assert crps_from_quantiles(np.array([3.0]), np.full((1, 9), 5.0)) == pytest.approx([2.0])


def test_climatology_has_skill_0_the_oracle_1_and_a_mixture_lies_between():
    random = np.random.default_rng(0)
    n = 400
    heard = random.normal(size=n)
    frame = pd.DataFrame(
        {
            "song_id": [str(i) for i in range(n)],
            "artist": [str(i // 2) for i in range(n)],
            "region": "US",
            "true": heard + random.normal(size=n),
        }
    )
    levels = scipy.stats.norm.ppf(LEVELS)

    def system(centre: np.ndarray, spread: float) -> pd.DataFrame:
        return frame.assign(**{name: centre + spread * z for name, z in zip(QUANTILES, levels, strict=True)})

    systems = {
        "climatology": system(np.zeros(n), np.sqrt(2)),
        "half": system(heard / 2, np.sqrt(1.25)),
        "oracle": system(heard, 1.0),
    }
    scores = skill_scores(systems, "climatology", "oracle")
    assert scores["climatology"]["skill"] == 0
    assert scores["oracle"]["skill"] == 1
    low, high = scores["half"]["skill_ci"]
    assert 0.4 < low < scores["half"]["skill"] < high < 1
    # The score of a normal forecast in closed form (Gneiting and Raftery 2007), within the nine levels' error.
    assert scores["oracle"]["crps"] == pytest.approx(1 / np.sqrt(np.pi), rel=0.12)


def test_systems_that_forecast_other_songs_are_not_compared():
    frame = pd.DataFrame({"song_id": ["a", "b"], "artist": ["x", "y"], "region": "US", "true": [1.0, 2.0]})
    frame = frame.assign(**dict.fromkeys(QUANTILES, 1.0))
    with pytest.raises(InputError, match="oracle and climatology"):
        skill_scores({"climatology": frame, "oracle": frame.assign(song_id=["a", "c"])}, "climatology", "oracle")
