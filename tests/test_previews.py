"""Previews come from a server that plays the stores, faults and all: matched with care, once, within the limits."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest
from audio_files import tone, write_audio

from data_prep import preview_stores
from data_prep.preview_stores import Limits, RollingWindow, Wanted, same_recording, seconds_to_wait
from data_prep.previews import Summary, fetch_previews, main, match_local, read_tracks
from mp3model.audio.bank import AudioBank
from mp3model.files import InputError
from mp3model.tables.folder import read_dataset, write_dataset

SIGNATURE = "hdnea=exp=1700000000~hmac=5ec2e7"


class Shop:
    """Deezer's and Apple's interfaces in one server, and what it does wrong.

    Attributes:
        songs: as the shop knows them: id, isrc, title, artist, seconds, kind of preview.
        calls: (seconds, path) of each request that arrived.
        served: id → how often its preview was sent whole.
        every: each so-many-th call is answered with 503.
        replies: path prefix → answers to give first, each a function of the handler that says True once it answered.
    """

    def __init__(self, songs: list[dict], audio: Path) -> None:
        self.songs, self.audio = songs, audio
        self.calls: list[tuple[float, str]] = []
        self.served: Counter[str] = Counter()
        self.every = 0
        self.replies: dict[str, list[Callable[[Handler], None]]] = {}
        self.hold: Callable[[str], None] = lambda path: None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def start(self) -> None:
        shop = self

        class Bound(Handler):
            pass

        Bound.shop = shop
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def asked(self, prefix: str) -> list[str]:
        return [path for _, path in self.calls if path.startswith(prefix)]

    def most_in(self, seconds: float) -> int:
        times = sorted(moment for moment, _ in self.calls)
        return max(sum(0 <= later - start < seconds for later in times) for start in times)


class Handler(BaseHTTPRequestHandler):
    shop: Shop

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        shop = self.shop
        with shop.lock:
            shop.calls.append((time.monotonic(), self.path))
            number = len(shop.calls)
            waiting = next((v for k, v in shop.replies.items() if self.path.startswith(k) and v), None)
            special = waiting.pop(0) if waiting else None
        shop.hold(self.path)
        if shop.every and number % shop.every == 0:
            return self.send(503, b"busy", "text/plain")
        if special is not None:
            return special(self)
        return self.answer()

    def answer(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/track/isrc:"):
            song = next((s for s in self.shop.songs if s["isrc"] == parts.path.removeprefix("/track/isrc:")), None)
            missing = {"error": {"type": "DataException", "message": "no data", "code": 800}}
            self.send_json(self.deezer(song) | {"isrc": song["isrc"]} if song else missing)
        elif parts.path == "/search" and "term" in query:
            words = set(query["term"].casefold().split())
            hits = [s for s in self.shop.songs if words & set(f"{s['artist']} {s['title']}".casefold().split())]
            self.send_json({"resultCount": len(hits), "results": [self.apple(s) for s in hits]})
        elif parts.path == "/search":
            artist, title = re.fullmatch(r'artist:"(.*)" track:"(.*)"', query["q"]).groups()
            hits = [s for s in self.shop.songs if artist.casefold() in s["artist"].casefold()]
            first = title.split()[0].casefold()
            self.send_json({"data": [self.deezer(s) for s in hits if first in s["title"].casefold()]})
        elif parts.path.startswith("/preview/") and SIGNATURE in parts.query:
            number = parts.path.removeprefix("/preview/")
            self.send((self.shop.audio / number).read_bytes(), number)
        else:
            self.send(404, b"", "text/plain")

    def deezer(self, song: dict) -> dict:
        return {
            "id": song["id"],
            "title": song["title"],
            "duration": song["seconds"],
            "preview": self.link(song, "mp3"),
            "artist": {"id": 1, "name": song["artist"]},
        }

    def apple(self, song: dict) -> dict:
        return {
            "wrapperType": "track",
            "trackId": song["id"],
            "trackName": song["title"],
            "artistName": song["artist"],
            "trackTimeMillis": 1000 * song["seconds"],
            "previewUrl": self.link(song, "m4a"),
        }

    def link(self, song: dict, suffix: str) -> str:
        return f"{self.shop.url}/preview/{song['id']}.{suffix}?{SIGNATURE}" if song.get("preview", True) else ""

    def send(self, status: int | bytes, body: bytes | str, kind: str = "audio/mpeg", **headers: str) -> None:
        if isinstance(status, bytes):
            content, number = status, str(body)
            self.send(200, content, "audio/mpeg")
            with self.shop.lock:
                self.shop.served[number] += 1
            return
        assert isinstance(body, bytes)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, value: dict, kind: str = "text/javascript; charset=utf-8") -> None:
        self.send(200, json.dumps(value).encode(), kind)


def isrc(number: int) -> str:
    return f"QZABC24{number:05d}"


@pytest.fixture(scope="session")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("previews")
    for number in range(1, 13):
        for suffix in ("mp3", "m4a"):
            write_audio(folder / f"{number}.{suffix}", tone(1.0, 22_050, frequency=300.0 + 50 * number), 22_050)
    return folder


@pytest.fixture
def shop(audio: Path) -> Iterator[Shop]:
    shop = Shop(
        [
            {"id": n, "isrc": isrc(n), "title": f"Song Number {n}", "artist": f"Artist {n % 3}", "seconds": 200}
            for n in range(1, 13)
        ],
        audio,
    )
    shop.start()
    yield shop
    shop.server.shutdown()
    shop.server.server_close()


def wanted(number: int, **other: str | None) -> Wanted:
    texts = {"isrc": isrc(number), "title": f"Song Number {number}", "artist": f"Artist {number % 3}"} | other
    return Wanted(f"t{number:02d}", **texts)


def run(shop: Shop, tracks: list[Wanted], out: Path, store: str = "deezer", **options: Any) -> Summary:
    """Fetches with limits that no test has to wait for."""
    again, shortest = options.pop("again", False), options.pop("shortest", 0.5)
    limits = Limits(**({"calls": 1000, "seconds": 1.0, "first_wait": 0.01, "timeout": 0.5} | options))
    note = out / ".previews" / store / "last_call"
    note.parent.mkdir(parents=True, exist_ok=True)
    asked = getattr(preview_stores, store)(limits, shop.url, note)
    try:
        return fetch_previews(tracks, asked, out, {"deezer": ".mp3", "apple": ".m4a"}[store], shortest, again)
    finally:
        asked.close()


def rows(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="") as stream:
        return {row["track_id"]: row for row in csv.DictReader(stream)}


def pitch(bank: AudioBank, track: str) -> float:
    clip = bank.read(int(bank.previews_of(track)[0]), start=3200, samples=8000)
    return float(np.argmax(np.abs(np.fft.rfft(clip * np.hanning(8000)))) * 2.0)


# ------------------------------------------------------------------------------------------------------- matching
def test_isrc_goes_before_text_and_what_was_matched_how_is_recorded(shop: Shop, tmp_path: Path):
    tracks = [wanted(1, title="Another Name"), wanted(2, isrc=None), wanted(3, isrc=isrc(90))]
    summary = run(shop, tracks, tmp_path)
    assert (summary.tracks, summary.matched, summary.previews, summary.failed) == (3, 3, 3, 0)
    found = rows(tmp_path / "matches.csv")
    assert {track: row["how"] for track, row in found.items()} == {
        "t01": "isrc",
        "t02": "title and artist",
        "t03": "title and artist",
    }
    assert found["t01"]["title"] == "Song Number 1"
    assert [row["source"] for row in found.values()] == ["deezer"] * 3
    bank = AudioBank(tmp_path)
    bank.verify()
    assert [pitch(bank, f"t{n:02d}") for n in (1, 2, 3)] == pytest.approx([350, 400, 450], abs=4)
    assert bank.index["source"].tolist() == ["deezer"] * 3
    assert bank.index["date"].tolist() == [pd.Timestamp(row["date"]) for row in found.values()]
    assert abs(float(found["t01"]["seconds"]) - 1.0) < 0.1


def test_a_text_match_has_the_same_title_kind_and_artist(shop: Shop, tmp_path: Path):
    shop.songs[:] = [
        {"id": 1, "isrc": isrc(51), "title": "Ocean (Live at Wembley)", "artist": "Anna", "seconds": 200},
        {"id": 2, "isrc": isrc(52), "title": "Ocean", "artist": "Anna Other", "seconds": 200},
        {"id": 3, "isrc": isrc(53), "title": "Ocean Drive", "artist": "Anna", "seconds": 200},
        {"id": 4, "isrc": isrc(54), "title": "Ocean - 2019 Remaster", "artist": "Anna", "seconds": 200},
    ]
    tracks = [Wanted("a", None, "Ocean", "Anna"), Wanted("b", None, "Ocean (Kygo Remix)", "Anna")]
    tracks.append(Wanted("c", None, "Ocean Drive", "Anna, Someone"))
    run(shop, tracks, tmp_path)
    assert {track: row["store_id"] for track, row in rows(tmp_path / "matches.csv").items()} == {"a": "4", "c": "3"}
    assert rows(tmp_path / "unmatched.csv")["b"]["reason"] == "is not found there"


def test_the_same_recording_is_told_by_plain_title_kind_and_main_artist():
    assert same_recording("Señorita (feat. B)", "Shawn & Co", "senorita", "SHAWN & CO")
    assert not same_recording("Hello", "Adele", "Hello (Karaoke)", "Adele")
    assert not same_recording("Hello", "Adele", "Hello", "Adele Tribute Band")
    assert not same_recording("Hello", "", "Hello", "")


def test_a_track_of_another_isrc_in_the_answer_is_not_taken(shop: Shop, tmp_path: Path):
    shop.replies["/track/isrc:"] = [lambda h: h.send_json(h.deezer(shop.songs[4]) | {"isrc": isrc(5)})]
    run(shop, [wanted(1)], tmp_path)
    assert rows(tmp_path / "matches.csv")["t01"] | {"date": ""} == {
        "track_id": "t01",
        "preview": "0",
        "source": "deezer",
        "how": "title and artist",
        "store_id": "1",
        "title": "Song Number 1",
        "artist": "Artist 1",
        "seconds": "1.0",
        "date": "",
    }


def test_apple_is_asked_by_text_alone_and_gives_m4a(shop: Shop, tmp_path: Path):
    run(shop, [wanted(1), wanted(2, title=None)], tmp_path, "apple")
    assert shop.asked("/track") == []
    assert pitch(AudioBank(tmp_path), "t01") == pytest.approx(350, abs=4)
    assert "has neither an ISRC nor" not in rows(tmp_path / "unmatched.csv")["t02"]["reason"]
    assert "country=US" in shop.asked("/search")[0]


def test_two_stores_fill_one_bank_with_alternate_previews_and_a_dataset_folder_takes_them(shop: Shop, tmp_path: Path):
    tracks = pd.DataFrame(
        {
            "track_id": ["t01", "t02"],
            "song_id": ["s", "s"],
            "title": ["Song Number 1", "Song Number 2"],
            "artist": ["Artist 1", "Artist 2"],
            "isrc": [isrc(1), isrc(2)],
            "release_date": pd.NaT,
        }
    )
    targets = pd.DataFrame({"track_id": ["t01"], "region": ["US"], "total": [5.0], "debut_rank": [None]})
    write_dataset(tmp_path, tracks=tracks, targets=targets, info={"frequency": "W"})
    for store in ("deezer", "apple"):
        run(shop, read_tracks(tmp_path), tmp_path, store)
    dataset = read_dataset(tmp_path)
    assert dataset.previews is not None
    shown = dataset.previews[["track_id", "preview", "source"]].values.tolist()
    assert shown == [["t01", 0, "deezer"], ["t01", 1, "apple"], ["t02", 0, "deezer"], ["t02", 1, "apple"]]
    # Both versions of the song have their own, and training draws among those of all versions.
    assert dataset.tracks["song_id"].nunique() == 1


def test_two_versions_that_are_one_track_at_the_store_are_fetched_once(shop: Shop, tmp_path: Path):
    run(shop, [wanted(1), Wanted("other", None, "Song Number 1", "Artist 1")], tmp_path)
    assert shop.served == {"1.mp3": 1}
    assert AudioBank(tmp_path).index["sha256"].nunique() == 1


# --------------------------------------------------------------------------------------------------------- faults
def test_redirects_quota_late_answers_and_cut_bodies_are_gone_past(shop: Shop, tmp_path: Path):
    def redirect(h: Handler) -> None:
        h.send(302, b"", Location=f"/preview/1.mp3?{SIGNATURE}&moved")

    def quota(h: Handler) -> None:
        h.send_json({"error": {"type": "Exception", "message": "Quota limit exceeded", "code": 4}})

    def cut(h: Handler) -> None:
        body = (shop.audio / "3.mp3").read_bytes()
        h.send_response(200)
        h.send_header("Content-Type", "audio/mpeg")
        h.send_header("Content-Length", str(len(body)))
        h.end_headers()
        h.wfile.write(body[: len(body) // 2])
        h.close_connection = True

    def late(h: Handler) -> None:
        time.sleep(0.7)

    def no_json(h: Handler) -> None:
        h.send(200, b"<html>", "text/html")

    shop.replies = {
        "/preview/1.mp3": [redirect],
        f"/track/isrc:{isrc(2)}": [quota, no_json],
        "/preview/3.mp3": [cut],
        f"/track/isrc:{isrc(4)}": [late],
    }
    summary = run(shop, [wanted(n) for n in range(1, 5)], tmp_path)
    assert summary.matched == 4
    AudioBank(tmp_path).verify()
    assert shop.served == {f"{n}.mp3": 1 for n in range(1, 5)}


def test_an_expired_link_is_asked_for_again_and_wrong_types_are_no_sound(shop: Shop, tmp_path: Path):
    shop.replies = {
        "/preview/1.mp3": [lambda h: h.send(403, b"expired", "text/plain")],
        "/preview/2.mp3": [lambda h: h.send(200, b"<html>sign in</html>", "text/html")],
        "/preview/3.mp3": [lambda h: h.send(200, b"la la la" * 100, "audio/mpeg")] * 3,
        "/preview/5.mp3": [lambda h: h.send(200, b"<html>", "text/html; charset=utf-8")] * 3,
        "/preview/4.mp3": [lambda h: h.send(200, (shop.audio / "4.mp3").read_bytes()[:1500], "audio/mpeg")],
    }
    summary = run(shop, [wanted(n) for n in range(1, 6)], tmp_path)
    assert (summary.matched, summary.failed) == (3, 2)
    assert len(shop.asked(f"/track/isrc:{isrc(1)}")) == 2
    assert rows(tmp_path / "unmatched.csv")["t03"]["reason"].startswith("the preview is not an mp3")
    assert rows(tmp_path / "unmatched.csv")["t05"]["reason"] == "the link to the preview leads to text/html"
    # A track that failed is tried again by the next run, the others are left alone.
    before = len(shop.calls)
    assert run(shop, [wanted(n) for n in range(1, 6)], tmp_path).matched == 5
    assert len(shop.calls) - before == 4


def test_the_store_is_waited_for_as_long_as_it_asks(shop: Shop, tmp_path: Path):
    shop.replies["/track"] = [lambda h: h.send(429, b"", Retry_After="1")]
    run(shop, [wanted(1)], tmp_path)
    first, second = (moment for moment, path in shop.calls if path.startswith("/track"))
    assert second - first >= 1.0
    shop.replies["/track"] = [lambda h: h.send(429, b"", Retry_After="3600")]
    with pytest.raises(InputError, match=r"deezer asks to wait 3600 s; run the same command again"):
        run(shop, [wanted(2)], tmp_path)


def test_retry_after_is_read_in_both_forms():
    assert seconds_to_wait(None) is None
    assert seconds_to_wait("7") == 7.0
    assert seconds_to_wait("soon") is None
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert 57 < (seconds_to_wait(later) or 0) <= 60
    assert seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_a_clip_too_short_or_silent_is_no_preview_but_a_short_song_has_a_short_one(
    shop: Shop, tmp_path: Path, audio: Path
):
    quiet = write_audio(tmp_path / "quiet.mp3", np.zeros((22_050, 1), np.float32), 22_050).read_bytes()
    shop.replies["/preview/2.mp3"] = [lambda h: h.send(200, quiet, "audio/mpeg")] * 3
    shop.songs[2]["seconds"] = 2
    out = tmp_path / "out"
    run(shop, [wanted(3)], out, shortest=20.0)
    run(shop, [wanted(1), wanted(3)], out, shortest=20.0)
    assert rows(out / "unmatched.csv")["t01"]["reason"] == "the preview lasts 1.0 s where 20.0 s or more were expected"
    run(shop, [wanted(2), wanted(3)], out)
    assert rows(out / "unmatched.csv")["t02"]["reason"] == "the preview is silent"


def test_a_store_that_is_down_ends_the_run_after_a_few_tracks(shop: Shop, tmp_path: Path):
    shop.every = 1
    with pytest.raises(InputError, match=r"failed for 5 tracks in a row, the last one because answered with status"):
        run(shop, [wanted(n) for n in range(1, 13)], tmp_path, attempts=2)
    assert len(shop.calls) == 10


def test_tracks_that_are_not_there_are_asked_for_again_only_when_told_to(shop: Shop, tmp_path: Path):
    shop.songs[0]["preview"] = False
    tracks = [wanted(1), wanted(2)]
    run(shop, tracks, tmp_path)
    assert rows(tmp_path / "unmatched.csv")["t01"]["reason"] == "is known there without a preview"
    before = len(shop.calls)
    run(shop, tracks, tmp_path)
    assert len(shop.calls) == before
    shop.songs[0]["preview"] = True
    assert run(shop, tracks, tmp_path, again=True).matched == 2
    # A corrected title is another question.
    before = len(shop.calls)
    run(shop, [wanted(2, title="Corrected")], tmp_path)
    assert len(shop.calls) > before


def test_links_are_never_written_down_or_shown(shop: Shop, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    shop.replies["/preview/2.mp3"] = [lambda h: h.send(500, b"", "text/plain")] * 20
    shop.replies["/preview/3.mp3"] = [lambda h: h.send(302, b"", Location=f"ftp://x/?{SIGNATURE}")] * 20
    run(shop, [wanted(n) for n in range(1, 4)], tmp_path, attempts=2)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"hmac" not in path.read_bytes(), path
    assert "hmac" not in "".join(capfd.readouterr())
    assert {"t02", "t03"} <= set(rows(tmp_path / "unmatched.csv"))


# --------------------------------------------------------------------------------------------- limits, kill, resume
def test_no_window_holds_more_calls_than_allowed(shop: Shop, tmp_path: Path):
    shop.every = 3
    run(shop, [wanted(n) for n in range(1, 9)], tmp_path, calls=6, seconds=0.5, first_wait=0.001, attempts=9)
    assert len(shop.calls) > 15
    assert shop.most_in(0.5) <= 6


def test_the_window_is_a_rolling_one(tmp_path: Path):
    window = RollingWindow(3, 0.2, tmp_path / "note")
    times = []
    for _ in range(7):
        window.enter()
        times.append(time.monotonic())
        window.leave()
    # The window stamps a call a moment before it is stamped here.
    assert all(later - earlier >= 0.15 for earlier, later in zip(times, times[3:], strict=False))
    assert times[2] - times[0] < 0.2
    # Another run that follows at once knows nothing but when the last call was.
    following = RollingWindow(3, 0.2, tmp_path / "note")
    following.enter()
    assert time.monotonic() - times[-1] >= 0.15
    assert RollingWindow(3, 0.2, tmp_path / "other")._not_before <= time.monotonic()


@pytest.mark.slow
def test_a_run_killed_among_failing_calls_goes_on_without_fetching_a_file_twice(shop: Shop, tmp_path: Path):
    shop.every = 3
    table = tmp_path / "tracks.csv"
    lines = [f"t{n:02d},{isrc(n)},Song Number {n},Artist {n % 3}" for n in range(1, 13)]
    table.write_text("track_id,isrc,title,artist\n" + "\n".join(lines) + "\n")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "data_prep.previews", table, "--provider", "deezer", "--out", out]
    command += ["--base-url", shop.url, "--shortest", "0.5", "--first-wait", "0.01"]
    reached, go_on = threading.Event(), threading.Event()

    def hold(path: str) -> None:
        # Held while it asks for a song: no preview is on its way when the run is killed.
        if path.startswith("/track") and sum(shop.served.values()) >= 5 and not go_on.is_set():
            reached.set()
            go_on.wait(60)

    shop.hold = hold
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
    assert reached.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    go_on.set()
    assert not (out / "previews.parquet").exists()
    assert sum(shop.served.values()) == 5

    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 12 previews of 12 of 12 tracks")
    assert done.stderr.count("at most 50 requests in any 5 s") == 1
    assert shop.served == {f"{n}.mp3": 1 for n in range(1, 13)}
    assert shop.most_in(5.0) <= 50
    AudioBank(out).verify()


# ------------------------------------------------------------------------------------------- own files and exports
def test_own_files_are_matched_by_track_id_isrc_or_credit(tmp_path: Path):
    names = ("t01.wav", "t01__1.wav", f"masters/{isrc(2)} final.wav", "03 Artist 0 - Song Number 3 (2020 Remaster).wav")
    for place, name in enumerate((*names, "demo.wav")):
        write_audio(tmp_path / "files" / name, tone(0.2, 16_000, frequency=300.0 + 100 * place), 16_000)
    tracks = [wanted(1), wanted(2, title=None), wanted(3, isrc=None), wanted(4)]
    summary = match_local(tracks, tmp_path / "files", tmp_path / "out")
    assert (summary.matched, summary.previews) == (3, 4)
    with open(tmp_path / "out" / "matches.csv", newline="") as stream:
        shown = [(row["track_id"], row["preview"], row["how"], row["store_id"]) for row in csv.DictReader(stream)]
    assert shown == [
        ("t01", "0", "track id", "t01.wav"),
        ("t01", "1", "track id", "t01__1.wav"),
        ("t02", "0", "isrc", names[2]),
        ("t03", "0", "title and artist", names[3]),
    ]
    assert rows(tmp_path / "out" / "unmatched.csv")["t04"]["reason"] == "no file has its name"
    assert AudioBank(tmp_path / "out").index["source"].unique().tolist() == ["local"]


def test_a_file_name_that_fits_two_tracks_is_taken_for_neither(tmp_path: Path):
    write_audio(tmp_path / "files" / "Anna - Ocean.wav", tone(0.2, 16_000), 16_000)
    tracks = [Wanted("a", None, "Ocean", "Anna"), Wanted("b", None, "Ocean", "Anna")]
    with pytest.raises(InputError, match=r"none of its files belongs to one of the 2 tracks"):
        match_local(tracks, tmp_path / "files", tmp_path / "out")


def test_a_distributors_track_ids_are_isrcs(tmp_path: Path):
    table = tmp_path / "t.csv"
    table.write_text(f"track_id,title,artist\nisrc:{isrc(7)},None,\nx,,Nobody\n")
    assert read_tracks(table) == [
        Wanted(f"isrc:{isrc(7)}", isrc(7), "None", None),
        Wanted("x", None, None, "Nobody"),
    ]


def test_spotifys_export_gives_tracks_and_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def play(title: str | None, uri: str | None, milliseconds: int) -> dict:
        return {
            "ts": "2020-01-01T00:00:00Z",
            "ms_played": milliseconds,
            "conn_country": "SE",
            "master_metadata_track_name": title,
            "master_metadata_album_artist_name": "Anna" if title else None,
            "spotify_track_uri": uri,
        }

    extended = [play("Ocean", "spotify:track:AAA", 200_000), play("Sea", "spotify:track:BBB", 100), play(None, None, 9)]
    account = [{"endTime": "2020-01-01 10:00", "artistName": "Bo", "trackName": "Sun", "msPlayed": 31_000}] * 2
    with zipfile.ZipFile(tmp_path / "my_spotify_data.zip", "w") as archive:
        archive.writestr("MyData/Streaming_History_Audio_2020.json", json.dumps(extended))
        archive.writestr("MyData/StreamingHistory_music_0.json", json.dumps(account))
        archive.writestr("MyData/Userdata.json", "{}")
    export = str(tmp_path / "my_spotify_data.zip")
    assert main([export, "--provider", "spotify-export", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert "forbids training models on its content" in shown.err.replace("\n", " ")
    assert "3 tracks that you played; no sound, no ISRC and no streams of others" in shown.out
    table = pd.read_csv(tmp_path / "out" / "tracks.csv")
    assert table[["title", "plays"]].values.tolist() == [["Sun", 2], ["Ocean", 1], ["Sea", 0]]
    assert table["track_id"].tolist()[1:] == ["AAA", "BBB"]
    assert [found.title for found in read_tracks(tmp_path / "out" / "tracks.csv")] == ["Ocean", "Sea", "Sun"]
    # A folder, or one file of it, is read as the zip is.
    (tmp_path / "MyData").mkdir()
    (tmp_path / "MyData" / "Streaming_History_Audio_2020.json").write_text(json.dumps(extended))
    (tmp_path / "MyData" / "Userdata.json").write_text("{}")
    for place in ("MyData", "MyData/Streaming_History_Audio_2020.json"):
        assert main([str(tmp_path / place), "--provider", "spotify-export", "--out", str(tmp_path / "out")]) == 0
        assert pd.read_csv(tmp_path / "out" / "tracks.csv")["title"].tolist() == ["Ocean", "Sea"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("endsong_0.json", "not JSON", "endsong_0.json is no JSON ("),
        ("endsong_0.json", '{"plays": []}', "endsong_0.json holds no list of plays; give the export as it was sent"),
        ("endsong_0.json", '[{"trackName": "Sun"}]', "endsong_0.json: an entry has no ms_played or msPlayed"),
        ("Userdata.json", "{}", "no Streaming_History_Audio_*.json, endsong_*.json or StreamingHistory*.json"),
        (None, "", "export: no such folder or file; give the export that Spotify sent"),
    ],
)
def test_an_export_without_plays_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str | None, text: str, message: str
):
    if name is not None:
        (tmp_path / "export").mkdir()
        (tmp_path / "export" / name).write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "export"), "--provider", "spotify-export", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "tracks.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--provider", "deezer", "--files", "clips"], "--files FOLDER goes with --provider local, and only with it"),
        (["--provider", "local"], "--files FOLDER goes with --provider local, and only with it"),
        (["--provider", "apple", "--base-url", "ftp://shop"], "--base-url 'ftp://shop' is no http or https address"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    table = tmp_path / "tracks.csv"
    table.write_text("track_id,title,artist\na,Ocean,Anna\n")
    with pytest.raises(SystemExit) as stopped:
        main([str(table), "--out", str(tmp_path / "out"), *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("provider", "store"), [("deezer", "deezer"), ("apple", "apple")])
def test_the_command_fetches_from_a_server_of_ones_own(shop: Shop, tmp_path: Path, provider: str, store: str, capsys):
    song = shop.songs[0]
    table = tmp_path / "tracks.csv"
    table.write_text(f"track_id,isrc,title,artist\na,{song['isrc']},{song['title']},{song['artist']}\n")
    words = ["--provider", provider, "--out", str(tmp_path / "out"), "--base-url", shop.url, "--calls", "99"]
    assert main([str(table), *words, "--shortest", "0.1"]) == 0
    assert "1 previews of 1 of 1 tracks; see matches.csv, unmatched.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,title\nx,y\n", "no column 'track_id'"),
        ("track_id\nx\n", "none of isrc, title, artist is there"),
        ("track_id,title\nx,y\nx,z\n", "data row 2 repeats a track_id"),
        ("track_id,title\n,y\n", "data row 1 has no track_id"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(
    tmp_path: Path, text: str, reason: str, capsys: pytest.CaptureFixture[str]
):
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main([str(table), "--provider", "deezer", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {table}: ")
    assert reason in error


def test_a_bank_of_another_command_is_not_overwritten(shop: Shop, tmp_path: Path):
    (tmp_path / "previews.parquet").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"holds an audio bank of another command"):
        match_local([wanted(1)], tmp_path, tmp_path)
    assert (tmp_path / "previews.parquet").read_bytes() == b"precious"


def test_help_does_not_wait_for_heavy_libraries():
    code = (
        "import sys, data_prep.previews as p\n"
        "try: p.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('pandas', 'numpy', 'torch', 'httpx', 'tenacity') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
    assert "spotify-export" in shown
