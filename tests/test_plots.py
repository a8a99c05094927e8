"""Pictures and notebooks: what is drawn is what was forecast, and what was measured."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from mp3model.evaluation.accuracy import path_quantiles
from mp3model.evaluation.forecasts import CurvePaths
from mp3model.files import InputError
from mp3model.serving.plots import (
    BLUE,
    INNER,
    OUTER,
    attribution_picture,
    calibration_picture,
    error_by_observed_picture,
    region_comparison,
)
from mp3model.serving.result import Forecast, readable
from mp3model.serving.trust import Flag, flag_table

FLOOR = 100_000.0


def forecast(regions=("US", "GB"), observed=(0, 3), flags=(), alike: bool = False) -> Forecast:
    random = np.random.default_rng(0)
    streams = FLOOR * 10 ** (1 - 0.05 * np.arange(12) + 0.2 * random.normal(size=(len(regions), 64, 12)))
    for row, count in enumerate(observed):
        streams[row, :, :count] = FLOOR * np.arange(9, 9 - count, -1)
    rows = pd.DataFrame(
        {"song_id": "s", "track_id": "s", "region": regions, "debut": pd.Timestamp("2026-12-10"), "observed": observed}
    )
    near = pd.DataFrame(
        {
            "track_id": "s",
            "region": "US",
            "place": 1,
            "song_id": "old",
            "title": "Old Song",
            "artist": "Somebody",
            "streams": np.full(12, 2e5),
        }
    )
    ranks = np.full((len(regions), 64), np.nan)
    sampled = CurvePaths(rows, streams, "W", ranks)
    floors = np.full(len(regions), FLOOR)
    comparables = near if alike else near[:0]
    return Forecast(sampled, flag_table(list(flags)), comparables, pd.DataFrame(columns=["0.5"]), floors, floors, ranks)


def panels(figure) -> list:
    return [axes for axes in figure.axes if axes.axison]


def lines_of(axes, colour) -> list:
    return [line for line in axes.lines if line.get_color() == colour]


def test_each_region_has_a_panel_with_its_median_bands_and_floor():
    one = forecast(("US", "GB", "DE", "FR"), (0, 3, 0, 0))
    figure = one.plot()
    axes = panels(figure)
    assert [each.get_title(loc="left")[:2] for each in axes] == ["US", "GB", "DE", "FR"]
    (median,) = lines_of(axes[0], BLUE)
    assert np.allclose(median.get_ydata(), np.median(one.sampled.streams[0], axis=0))
    bands = {tuple(np.round(band.get_facecolor()[0][:3], 3)): band for band in axes[0].collections}
    assert len(bands) == 2
    heights = [band.get_paths()[0].vertices[:, 1].max() for band in axes[0].collections]
    assert heights[0] == pytest.approx(path_quantiles(one.sampled.streams[0], (0.9,), axis=0)[0].max())
    assert heights[1] == pytest.approx(path_quantiles(one.sampled.streams[0], (0.75,), axis=0)[0].max())
    assert any(np.all(np.asarray(line.get_ydata()) == FLOOR) for line in axes[0].lines)


def test_observed_periods_are_points_and_the_fan_opens_at_the_last_of_them():
    axes = panels(forecast().plot())[1]
    (points,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert points.get_ydata().tolist() == [9 * FLOOR, 8 * FLOOR, 7 * FLOOR]
    (median,) = lines_of(axes, BLUE)
    assert len(median.get_ydata()) == 10
    assert median.get_ydata()[0] == 7 * FLOOR


def test_a_gap_among_the_observed_periods_is_no_point():
    one = forecast(observed=(0, 3))
    one.sampled.streams[1, :, 1] *= np.linspace(0.9, 1.1, 64)
    (points,) = [line for line in panels(one.plot())[1].lines if line.get_marker() == "o"]
    assert points.get_ydata().tolist() == [9 * FLOOR, 7 * FLOOR]


def test_dates_stand_on_the_axis_with_the_year_where_it_begins():
    labels = [label.get_text() for label in panels(forecast().plot())[0].get_xticklabels()]
    assert labels[0] == "10 Dec\n2026"
    assert [label for label in labels if "2027" in label] == ["14 Jan\n2027"]
    assert labels[-1] == "25 Feb"


def test_flags_and_songs_most_alike_are_in_the_picture():
    flag = ("s", Flag("speech", "the audio sounds like speech, not music", "US"))
    one = forecast(flags=[flag], alike=True).plot()
    texts = " ".join(text.get_text() for part in one.subfigs for text in part.texts)
    assert "speech in US: the audio sounds like speech, not music" in texts
    assert "songs most alike: Old Song by Somebody" in texts
    assert any(np.all(np.asarray(line.get_ydata()) == 2e5) for line in panels(one)[0].lines)
    assert not any(np.all(np.asarray(line.get_ydata()) == 2e5) for line in panels(one)[1].lines)


def test_one_reason_in_many_regions_is_one_line():
    flags = [("s", Flag("floors_old", "the floors are old", region)) for region in ("US", "GB")]
    figure = forecast(flags=flags).plot()
    texts = [text.get_text() for part in figure.subfigs for text in part.texts]
    assert [text for text in texts if "old" in text] == ["! floors_old in US, GB: the floors are old"]


def test_the_two_bands_differ_in_brightness_so_that_grey_print_tells_them_apart():
    def brightness(colour: str) -> float:
        red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    assert 1 - brightness(OUTER) > 0.1
    assert brightness(OUTER) - brightness(INNER) > 0.1
    assert brightness(INNER) - brightness(BLUE) > 0.1


def test_a_picture_is_written_as_png_and_of_one_track(tmp_path):
    one = forecast()
    one.plot(tmp_path / "deep" / "a.png")
    assert (tmp_path / "deep" / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="'other' is not in this forecast"):
        one.plot(track_id="other")
    one.sampled.rows["track_id"] = ["a", "b"]
    with pytest.raises(InputError, match="name one of a, b"):
        one.plot()


def test_songs_that_never_chart_again_are_drawn_too():
    one = forecast(observed=(0, 12))
    one.sampled.streams[0] = 0
    assert len(panels(one.plot())) == 2


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7.254, "7.25"), (999, "999"), (999.6, "1 k"), (1234, "1.23 k"), (1234567, "1.23 M"), (2.5e9, "2.5 G")],
)
def test_numbers_are_readable(number, text):
    assert readable(number) == text


def test_regions_stand_side_by_side_in_the_order_of_their_totals():
    one = forecast(("US", "GB", "DE"), (0, 0, 0))
    one.sampled.streams[1] *= 30
    one.sampled.streams[2] *= 5
    figure = region_comparison(one)
    (axes,) = panels(figure)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["US", "DE", "GB"]
    (medians,) = [line for line in axes.lines if line.get_marker() == "o"]
    expected = np.median(one.sampled.streams.sum(axis=2), axis=1)[[0, 2, 1]]
    assert np.allclose(medians.get_xdata(), expected)
    widest = axes.containers[0]
    assert widest[2].get_width() == pytest.approx(
        np.ptp(path_quantiles(one.sampled.streams[1].sum(axis=1), (0.1, 0.9))), rel=1e-6
    )
    assert axes.get_xscale() == "log"


def test_a_comparison_is_of_one_track():
    one = forecast()
    one.sampled.rows["track_id"] = ["a", "b"]
    with pytest.raises(InputError, match="name one of a, b"):
        region_comparison(one)
    assert panels(region_comparison(one, "b"))[0].get_title() == "b"


def test_effects_stand_over_the_second_they_are_of():
    waveform = (3000 * np.sin(np.arange(int(3.5 * 16_000)) / 5)).astype(np.int16)
    effects = pd.DataFrame({"region": "US", "second": range(4), "effect": [0.0, np.log10(1.5), np.log10(0.8), 0.1]})
    bars, spectrogram = panels(attribution_picture(waveform, effects))
    assert [bar.get_x() for bar in bars.patches] == [0, 1, 2, 3]
    heights = [bar.get_height() for bar in bars.patches]
    assert heights[:3] == pytest.approx([0, 50, -20])
    assert bars.patches[1].get_facecolor() != bars.patches[2].get_facecolor()
    assert bars.patches[3].get_x() + bars.patches[3].get_width() <= 3.5
    assert spectrogram.get_xlim() == (0, 3.5)
    with pytest.raises(InputError, match="give those of this song"):
        attribution_picture(waveform[:16_000], effects)


def evaluated(*targets: str) -> dict:
    """As recipes/evaluate.py reports two systems."""
    scores = {target: {"crps_logfloor": 0.3 - 0.05 * place} for place, target in enumerate(targets)}
    told = {"coverage": {"0.2": 0.25, "0.8": 0.7}, "pit": [0.1] * 10}
    reliability = {target: {"MP3": told, "region median": told} for target in targets}
    rivals = {"region median": {"test": scores}}
    return {
        "split": "test",
        "leader": "MP3",
        "test": scores,
        "baselines": rivals,
        "reliability": {"test": reliability},
    }


def test_calibration_and_error_by_known_periods_are_drawn_from_a_report():
    report = evaluated("total", "remaining_2")
    above = panels(calibration_picture(report))[0]
    (line,) = [line for line in above.lines if line.get_label() == "MP3"]
    assert line.get_xdata().tolist() == [0.2, 0.8]
    assert line.get_ydata().tolist() == [0.25, 0.7]
    (axes,) = panels(error_by_observed_picture(report))
    (line,) = [line for line in axes.lines if line.get_label() == "MP3"]
    assert line.get_ydata().tolist() == pytest.approx([0.3, 0.25])


def test_a_report_of_training_has_errors_but_no_calibration():
    report = {name: value for name, value in evaluated("total", "remaining_1").items() if name in ("test", "baselines")}
    assert panels(error_by_observed_picture(report))
    with pytest.raises(InputError, match="no reliability"):
        calibration_picture(report)
    with pytest.raises(InputError, match="not two numbers"):
        error_by_observed_picture(evaluated("total"))


def test_a_notebook_shows_totals_fans_and_flags_and_no_code_of_strangers():
    flag = ("s", Flag("speech", "sounds like <script>alert(1)</script>", "US"))
    one = forecast(flags=[flag])
    html = one._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<svg") == 2
    assert html.count("<circle") == 3, "three weeks are known in one region"
    total = path_quantiles(one.sampled.streams[0].sum(axis=1), (0.5, 0.1, 0.9))
    assert f"{readable(total[0])} ({readable(total[1])} to {readable(total[2])})" in html
    assert not {"http://", "https://", "onload", "<img"} & set(html.split())
    tree = ElementTree.fromstring(html)
    assert {row.findtext("th") for row in tree.iter("tr")} >= {"US", "GB"}


def test_a_notebook_shows_the_first_of_many():
    regions = [f"R{number}" for number in range(9)]
    html = forecast(regions, [0] * 9)._repr_html_()
    assert html.count("<svg") == 6
    assert "and 3 more regions" in html
    one = forecast(("US",) * 5, (0,) * 5)
    one.sampled.rows["track_id"] = list("abcde")
    assert "and 2 more" in one._repr_html_()
    assert one._repr_html_().count("<svg") == 3
