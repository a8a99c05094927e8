"""The page in a real browser, at the real `mp3model serve`: a song goes in, fans, words and files come out."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from tiny_model import FLOORS, write_model

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
WEB = ROOT / "mp3model" / "serving" / "web"
# A folder to look at the pages in: MP3MODEL_SCREENSHOTS=DIR pytest -m browser tests/test_web.py
SCREENSHOTS = os.environ.get("MP3MODEL_SCREENSHOTS")
SHAPES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
SLOW = 90_000


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A model with a catalogue, and two songs."""
    import soundfile

    from mp3model.serving.comparables import write_catalogue

    folder = tmp_path_factory.mktemp("web")
    write_model(folder / "run" / "model")
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        [(f"old-{song}", region, "2025-06-05") for song in range(8) for region in FLOORS],
        columns=["song_id", "region", "debut"],
    )
    streams = np.array([[FLOORS[region] * 9 * 0.8**week for week in range(12)] for region in rows["region"]])
    songs = rows["song_id"].unique().tolist()
    titles = [f"Old Song {number}" for number in range(len(songs))]
    write_catalogue(
        folder / "run" / "model",
        songs,
        titles,
        ["Somebody <b>Bold</b>"] * len(songs),
        random.normal(size=(len(songs), 64)),
        rows,
        streams * random.uniform(0.3, 2.0, size=(len(rows), 1)),
    )
    time_ = np.arange(6 * 16_000) / 16_000
    for name, pitch in (("first song", 220), ("second", 330)):
        sound = 0.2 * np.sin(2 * np.pi * pitch * time_) * (1 + np.sign(np.sin(4 * np.pi * time_))) / 2
        soundfile.write(folder / f"{name}.wav", sound + 0.01 * random.normal(size=len(time_)), 16_000)
    return folder


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def address(desk) -> Iterator[str]:
    """Where `mp3model serve` answers."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    port = free_port()
    words = ["serve", "--model", str(desk / "run" / "model"), "--port", str(port)]
    with open(desk / "server.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mp3model.cli", *words],
            stdout=log,
            stderr=log,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    try:
        for _ in range(600):
            assert process.poll() is None, (desk / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/model", timeout=5):
                    break
            except OSError:
                time.sleep(0.3)
        else:
            pytest.fail((desk / "server.log").read_text())
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium as the system has it."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        one = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield one
        one.close()


class Visit:
    """One open page and what went wrong on it."""

    def __init__(self, browser: Any, address: str, shape: str = "desktop", scheme: str = "light") -> None:
        phone = shape == "phone"
        self.context = browser.new_context(
            viewport=SHAPES[shape], color_scheme=scheme, has_touch=phone, is_mobile=phone, locale="en-GB"
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(SLOW)
        self.faults: list[str] = []
        self.strangers: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda asked: self._note(asked.url, address))
        self.page.goto(address)
        self.page.wait_for_selector("#regions input")

    def _hear(self, said: Any) -> None:
        if said.type in ("error", "warning"):
            self.faults.append(said.text)

    def _note(self, url: str, address: str) -> None:
        if not url.startswith((address, "blob:", "data:")):
            self.strangers.append(url)

    def song(self, *paths: Path) -> None:
        self.page.set_input_files("#file", [str(path) for path in paths])
        self.settled()

    def settled(self) -> None:
        """Waits until no forecast is being made and one is shown."""
        self.page.wait_for_selector("#status:not(.busy)")
        self.page.wait_for_selector("#fans svg")

    def changed(self, before: str) -> None:
        """Waits until the drawing of the fans is another one."""
        for _ in range(300):
            if self.drawing() != before and "busy" not in (self.page.get_attribute("#status", "class") or ""):
                return
            self.page.wait_for_timeout(100)
        pytest.fail("the fan was not drawn again")

    def drawing(self) -> str:
        return str(self.page.locator("#fans").inner_html())

    def saved(self, button: str) -> bytes:
        with self.page.expect_download() as download:
            self.page.click(button)
        return Path(download.value.path()).read_bytes()

    def picture(self, name: str) -> None:
        if SCREENSHOTS:
            self.page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"), full_page=True)

    def end(self) -> None:
        self.context.close()
        assert self.faults == []
        assert self.strangers == []


def faults_of_access(page: Any) -> list[str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found if one["impact"] in ("serious", "critical")
    ]


def test_a_song_two_regions_another_date_and_two_observed_weeks_end_in_a_table(desk, address, browser):
    visit = Visit(browser, address)
    page = visit.page
    page.fill("#release", "2026-12-04")
    for region in ("DE", "GB", "US"):
        page.set_checked(f'#regions input[value="{region}"]', region != "DE")
    visit.song(desk / "first song.wav")
    assert page.locator("#fans figure").count() == 2
    assert "first song" in page.inner_text("#status")
    assert page.locator("#words li").count() == 2
    assert "8 of 10 futures lie between" in page.inner_text("#words")
    assert page.locator("#flags li").count() >= 1
    assert page.locator("#alike li").count() >= 1
    assert "Somebody <b>Bold</b>" in page.inner_text("#alike"), "a name is text, whatever is in it"

    before = visit.drawing()
    page.focus("#move")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    visit.changed(before)
    assert page.input_value("#release") == "2026-12-25"
    assert "3 weeks later" in page.inner_text("#moved")

    page.fill('#observed input[data-region="US"][data-at="0"]', "3,000,000")
    page.fill('#observed input[data-region="US"][data-at="1"]', "2.5M")
    page.wait_for_selector("#fans circle >> nth=1")
    visit.settled()
    assert page.locator("#fans circle").count() == 2

    table = pd.read_csv(io.BytesIO(visit.saved("#csv")))
    levels = [f"0.{level}" for level in range(1, 10)]
    assert list(table) == ["track_id", "region", "week", "date", "mean", *levels]
    assert sorted(table["region"].unique()) == ["GB", "US"]
    us = table[table["region"] == "US"].set_index("week")
    assert us.loc[[0, 1], levels].to_numpy().tolist() == [[3_000_000.0] * 9, [2_500_000.0] * 9]
    assert us.loc[0, "date"] == "2026-12-31"
    assert us.loc[2, "0.1"] < us.loc[2, "0.9"]
    whole = json.loads(visit.saved("#json"))
    assert {"curves", "popularity", "chances", "flags", "model"} <= set(whole)
    assert visit.saved("#png").startswith(b"\x89PNG")
    visit.end()


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_whole_and_accessible_on_each_screen(desk, address, browser, shape, scheme):
    visit = Visit(browser, address, shape, scheme)
    page = visit.page
    assert faults_of_access(page) == []
    page.fill("#release", "2026-12-04")
    visit.song(desk / "first song.wav")
    page.click("#find-seconds")
    page.wait_for_selector("#seconds svg")
    page.fill('#observed input[data-region="US"][data-at="0"]', "3000000")
    page.wait_for_selector("#fans circle")
    assert faults_of_access(page) == []
    wide = page.locator("main").bounding_box()["width"]
    assert wide <= SHAPES[shape]["width"], "nothing may hang over the edge of the screen"
    for place in page.locator(".card:visible").all():
        box = place.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= SHAPES[shape]["width"]
    assert page.locator("#jump").is_visible() == (shape == "phone")
    visit.picture(f"{shape}-{scheme}")
    visit.end()


def test_all_of_it_works_from_the_keyboard(desk, address, browser):
    visit = Visit(browser, address)
    page = visit.page
    page.fill("#release", "2026-12-04")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        # Between the parts of a date nothing is in focus for a moment.
        seen.append(page.evaluate("() => document.activeElement?.id || document.activeElement?.value || ''"))
        if seen[-1] == "go":
            break
    order = [name for name in seen if name in ("file", "US", "release", "move", "go")]
    assert order[-2:] == ["move", "go"]
    page.keyboard.press("Enter")
    visit.settled()
    assert "The song was not heard" in page.inner_text("#flags")
    page.focus("#fans input[type=range]")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#fans output >> nth=0").startswith("week 1")
    visit.end()


def test_pasted_tables_fill_the_cells_they_name(desk, address, browser):
    visit = Visit(browser, address)
    page = visit.page
    page.fill("#release", "2026-12-04")
    page.click("text=Paste a table")
    page.fill("#pasted", "region,week,streams\nDE,0,900000\nDE,2026-12-17,800000\nXX,0,1")
    page.locator("#pasted").blur()
    cell = '#observed input[data-region="DE"][data-at="{}"]'
    assert page.is_checked('#regions input[value="DE"]')
    assert [page.input_value(cell.format(week)) for week in (0, 1)] == ["900000", "800000"]
    assert "XX,0,1" in page.inner_text("#error")
    visit.end()


def test_what_is_wrong_is_said_and_the_forecast_before_stays(desk, address, browser, tmp_path):
    visit = Visit(browser, address)
    page = visit.page
    page.fill("#release", "2026-12-04")
    visit.song(desk / "first song.wav")
    page.fill('#observed input[data-region="US"][data-at="0"]', "many")
    assert "many is no number of streams" in page.inner_text("#error")
    page.fill('#observed input[data-region="US"][data-at="0"]', "")
    (tmp_path / "notes.mp3").write_bytes(b"no music at all" * 50)
    page.set_input_files("#file", str(tmp_path / "notes.mp3"))
    page.wait_for_selector("#error:visible")
    assert "notes" in page.inner_text("#error")
    assert page.locator("#fans svg").count() == 2
    # The browser itself logs an answer of 4xx, and that it cannot play what is no music.
    visit.faults = [one for one in visit.faults if "Failed to load resource" not in one]
    visit.end()


def test_several_songs_are_forecast_one_after_the_other(desk, address, browser):
    visit = Visit(browser, address)
    page = visit.page
    page.fill("#release", "2026-12-04")
    visit.song(desk / "first song.wav", desk / "second.wav")
    page.wait_for_selector("#track-box:visible")
    assert page.locator("#track option").count() == 2
    before = visit.drawing()
    page.select_option("#track", "second")
    assert "second" in page.inner_text("#status")
    assert visit.drawing() != before
    visit.end()


def test_the_page_asks_nobody_else_and_holds_no_inline_code():
    text = (WEB / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
    for path in WEB.iterdir():
        found = set(re.findall(r"https?://[^\s\"')]+", path.read_text()))
        assert found <= {"http://www.w3.org/2000/svg"}, path
    for name in ("app.js", "charts.js"):
        code = (WEB / name).read_text()
        assert "innerHTML" not in code
        assert "eval(" not in code
