"""The HTTP service as a client meets it: answers, jobs, refusals, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import soundfile
from tiny_model import FLOORS, charts_dataset, write_model

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from starlette.testclient import TestClient

from mp3model import Forecaster
from mp3model.cli import main
from mp3model.serving.api import create_app
from mp3model.serving.comparables import Catalogue, write_catalogue
from mp3model.serving.requests import Limits, labels_of

DATE = "2026-12-04"
LEVELS = [f"0.{level}" for level in range(1, 10)]


def sound(pitch: float = 220.0, seconds: float = 2.0, kind: str = "WAV") -> bytes:
    waveform = 0.2 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * 16_000)) / 16_000)
    stream = io.BytesIO()
    soundfile.write(stream, waveform, 16_000, format=kind)
    return stream.getvalue()


def strictly(text: str | bytes):
    """JSON as other languages read it: NaN is none."""

    def refuse(constant):
        raise AssertionError(f"{constant} in an answer")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("api") / "model")
    songs = ["a", "b", "c"]
    rows = pd.DataFrame(
        [(song, region, pd.Timestamp("2024-01-04")) for song in songs for region in ("US", "GB")],
        columns=["song_id", "region", "debut"],
    )
    streams = FLOORS["US"] * np.array([[2.0] * 12, [2.0] * 12, [40.0] * 12]).repeat(2, axis=0)
    embeddings = np.random.default_rng(0).normal(size=(3, 64))
    write_catalogue(folder, songs, ["Song A", None, "Song C"], ["x", None, "z"], embeddings, rows, streams)
    return folder


@pytest.fixture(scope="module")
def client(folder):
    with TestClient(create_app(folder, limits=Limits(decoders=1)), raise_server_exceptions=False) as client:
        yield client


SONG = (("one.wav", sound()),)


def post(client, files=SONG, address="/v1/forecasts", **fields):
    told = {"release_date": DATE, "samples": "16", "regions": ["US", "GB"]} | fields
    told = {name: value for name, value in told.items() if value is not None}
    parts = [("file", (name, content)) for name, content in files]
    # An empty part keeps the body a form where no song is sent.
    return client.post(address, data=told, files=parts or [("artist", (None, ""))])


def code_of(answer) -> str:
    told = strictly(answer.content)
    assert list(told) == ["error"]
    assert list(told["error"]) == ["code", "message"]
    assert "\n" not in told["error"]["message"]
    return told["error"]["code"]


def finished(client, identity: str) -> dict:
    for _ in range(600):
        told = strictly(client.get(f"/v1/jobs/{identity}").content)
        if told["state"] == "done":
            return told
        time.sleep(0.02)
    raise AssertionError("the job does not end")


def test_one_song_is_answered_as_the_forecaster_answers(client, folder):
    answer = post(client)
    assert answer.status_code == 200
    told = strictly(answer.content)
    forecaster = Forecaster.from_pretrained(folder, "cpu")
    expected = forecaster.forecast(sound(), ["US", "GB"], DATE, samples=16)
    curves = pd.DataFrame(told["curves"])
    assert list(curves) == ["track_id", "region", "week", "date", "mean", *LEVELS]
    assert (curves["track_id"] == "one").all()
    assert curves["date"][0] == "2026-12-10"
    np.testing.assert_allclose(curves[LEVELS].astype(float), expected.curves[LEVELS], rtol=1e-4)
    popularity = pd.DataFrame(told["popularity"])
    assert popularity["metric"].tolist() == expected.popularity["metric"].tolist()
    chances = pd.DataFrame(told["chances"])
    assert set(chances["question"]) == {"sum_above", "weeks_to", "top", "percentile"}
    assert [row["title"] for row in told["comparables"][::12]].count(None) == 2
    assert [flag["code"] for flag in told["flags"]] == expected.flags["code"].tolist()
    assert told["model"].keys() == {"version", "hash"}
    assert len(told["model"]["hash"]) == 64


def test_the_answer_is_the_same_whoever_asks_beside_and_whatever_the_file_is_called(client):
    pitches = [220.0, 330.0, 440.0]
    alone = {pitch: post(client, [("x.wav", sound(pitch))]).content for pitch in pitches}
    assert len(set(alone.values())) == len(pitches)
    with ThreadPoolExecutor(8) as pool:
        asked = [pitch for pitch in pitches for _ in range(2)]
        together = list(pool.map(lambda pitch: post(client, [("x.wav", sound(pitch))]).content, asked))
    assert together == [alone[pitch] for pitch in asked]
    other = post(client, [("another name.wav", sound(pitches[0]))]).content
    assert other.replace(b"another name", b"x") == alone[pitches[0]]


def test_without_a_song_json_is_as_good_as_a_form(client):
    told = {"regions": ["DE"], "release_date": DATE, "samples": 16, "seed": 3}
    by_json = client.post("/v1/forecasts", json=told)
    by_form = post(client, [], regions=["DE"], seed="3")
    assert by_json.status_code == 200
    assert by_json.content == by_form.content
    assert [flag["code"] for flag in by_json.json()["flags"]] == ["no_audio"]
    assert client.post("/v1/forecasts", json=told | {"seed": 4}).content != by_json.content


@pytest.mark.slow
def test_several_release_dates_are_answered_in_their_order(client):
    dates = ["2026-12-18", "2026-12-04"]
    told = strictly(post(client, release_date=dates).content)
    assert list(told) == ["forecasts"]
    assert told["forecasts"] == [strictly(post(client, release_date=date).content) for date in dates]


def test_observed_weeks_come_back_as_they_were_and_reach_other_regions(client):
    rows = [{"region": "GB", "week": 0, "streams": 900_001.0}, {"region": "GB", "week": 1, "streams": 0}]
    by_json = client.post(
        "/v1/forecasts",
        json={"regions": ["US", "GB"], "release_date": DATE, "samples": 16, "observed": rows},
    )
    assert by_json.status_code == 200, by_json.text
    curves = pd.DataFrame(by_json.json()["curves"])
    seen = curves[(curves["region"] == "GB") & (curves["week"] < 2)]
    assert (seen[LEVELS].to_numpy() == [[900_001.0], [0.0]]).all()
    csv = "region,week,streams\nGB,0,900001\nGB,1,0\n"
    assert post(client, [], observed=csv).content == by_json.content
    as_file = client.post(
        "/v1/forecasts",
        data={"release_date": DATE, "samples": "16", "regions": ["US", "GB"]},
        files=[("observed", ("weeks.csv", csv))],
    )
    assert as_file.content == by_json.content
    elsewhere = curves[curves["region"] == "US"]
    without = pd.DataFrame(post(client, []).json()["curves"])
    assert not np.allclose(elsewhere["0.5"], without.loc[without["region"] == "US", "0.5"])


def test_an_artists_history_changes_the_forecast(client):
    history = "track_id,region,date,streams\nfirst,US,2026-05-07,9000000\nfirst,US,2026-05-14,7000000\n"
    with_history = post(client, [], history=history)
    assert with_history.status_code == 200, with_history.text
    assert with_history.json()["curves"] != post(client, []).json()["curves"]
    assert code_of(post(client, [], history="track_id,region\nfirst,US\n")) == "invalid_input"


def test_horizon_milestones_and_tops_are_those_asked_for(client):
    told = strictly(post(client, horizon="3", milestones=["1e6", "2000000"], tops="7").content)
    curves, chances = pd.DataFrame(told["curves"]), pd.DataFrame(told["chances"])
    assert curves["week"].max() == 2
    assert sorted(set(chances.loc[chances["question"] == "sum_above", "amount"])) == [1e6, 2e6]
    assert set(chances.loc[chances["question"] == "top", "amount"]) == {7}
    whole = pd.DataFrame(strictly(post(client).content)["curves"])
    assert curves[LEVELS].equals(whole.loc[whole["week"] < 3, LEVELS].reset_index(drop=True))
    longest = pd.DataFrame(told["popularity"])
    assert longest.loc[longest["metric"] == "length", "0.9"].max() <= 3
    cut = strictly(post(client, horizon="400").content)
    assert "horizon_cut" in [flag["code"] for flag in cut["flags"]]
    assert pd.DataFrame(cut["curves"]).equals(whole)


def test_ties_count_half_in_the_place_in_the_catalogue_of_as_many_weeks(folder):
    catalogue = Catalogue.read(folder)
    totals = FLOORS["US"] * np.array([0.0, 4.0, 5.0, 80.0, 81.0])
    # Two of three songs had 4 floors in two weeks, and one had 80.
    assert catalogue.percentile_of(totals, "US", 2) == pytest.approx([0, 100 / 3, 200 / 3, 250 / 3, 100])
    assert catalogue.percentile_of(totals, "US")[1] == 0


def test_several_songs_are_a_job_whose_answers_are_those_of_each_alone(client):
    files = [("one.wav", sound()), ("noise.wav", b"RIFF" + bytes(40)), ("../../etc/two.flac", sound(330, kind="FLAC"))]
    answer = post(client, files)
    assert answer.status_code == 202
    told = strictly(answer.content)
    assert answer.headers["location"] == f"/v1/jobs/{told['id']}"
    done = finished(client, told["id"])
    assert done["progress"] == {"done": 3, "total": 3}
    assert [result["track_id"] for result in done["results"]] == ["one", "noise", "two"]
    assert done["results"][0]["forecasts"] == [strictly(post(client).content)]
    assert done["results"][1]["error"]["code"] in ("bad_audio", "unsupported_audio")
    assert done["results"][2]["forecasts"] == [strictly(post(client, [("two.flac", sound(330, kind="FLAC"))]).content)]
    events = client.get(f"/v1/jobs/{told['id']}/events")
    assert events.headers["content-type"].startswith("text/event-stream")
    assert events.text.startswith("event: done\ndata: {")
    assert client.delete(f"/v1/jobs/{told['id']}").status_code == 204
    for gone in (client.get, client.delete):
        assert code_of(gone(f"/v1/jobs/{told['id']}")) == "no_such_job"


@pytest.mark.slow
def test_a_jobs_progress_is_told_as_it_happens(client):
    identity = post(client, [(f"{number}.wav", sound(200 + number)) for number in range(6)]).json()["id"]
    names, counts = [], []
    with client.stream("GET", f"/v1/jobs/{identity}/events") as events:
        for line in events.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if line.startswith("data: "):
                counts.append(json.loads(line.removeprefix("data: "))["progress"]["done"])
    assert names[-1] == "done"
    assert set(names[:-1]) <= {"progress"}
    assert counts == sorted(counts)
    assert counts[-1] == 6


@pytest.mark.slow
def test_a_job_that_is_removed_stops_and_its_followers_end(client):
    files = [(f"{number}.wav", sound(200 + number, 8.0)) for number in range(40)]
    identity = post(client, files, samples="256").json()["id"]
    assert client.delete(f"/v1/jobs/{identity}").status_code == 204
    assert client.get(f"/v1/jobs/{identity}/events").status_code == 404
    assert post(client).status_code == 200


def test_observed_weeks_of_several_songs_say_whose_they_are(client):
    files = [("one.wav", sound()), ("two.wav", sound(330))]
    assert code_of(post(client, files, observed="region,week,streams\nUS,0,5\n")) == "invalid_input"
    assert code_of(post(client, files, observed="track_id,region,week,streams\nx,US,0,5\n")) == "invalid_input"
    rows = "track_id,region,week,streams\ntwo,US,0,3000001\n"
    done = finished(client, post(client, files, observed=rows).json()["id"])
    first = [pd.DataFrame(result["forecasts"][0]["curves"])["0.1"][0] for result in done["results"]]
    assert first[1] == 3_000_001
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"regions": ["UK"]}, 422, "unknown_region"),
        ({"regions": ["us"]}, 422, "unknown_region"),
        ({"regions": [""]}, 422, "unknown_region"),
        ({"regions": ["US", "US"]}, 422, "invalid_field"),
        ({"regions": ["US"] * 301}, 413, "too_many_values"),
        ({"release_date": "04.12.2026"}, 422, "invalid_field"),
        ({"release_date": "2026-02-30"}, 422, "invalid_field"),
        ({"release_date": "9999-12-31"}, 422, "invalid_field"),
        ({"release_date": None}, 422, "invalid_input"),
        ({"release_date": [DATE] * 61}, 413, "too_many_values"),
        ({"samples": "0"}, 422, "invalid_field"),
        ({"samples": "1e9"}, 422, "invalid_field"),
        ({"samples": "9" * 5000}, 422, "invalid_field"),
        ({"samples": "4096", "release_date": [DATE] * 60}, 413, "too_many_paths"),
        ({"seed": "-1"}, 422, "invalid_field"),
        ({"horizon": "0"}, 422, "invalid_field"),
        ({"milestones": "nan"}, 422, "invalid_field"),
        ({"milestones": "0"}, 422, "invalid_field"),
        ({"tops": "1.5"}, 422, "invalid_field"),
        ({"descriptors": "{"}, 422, "bad_json"),
        ({"descriptors": "[" * 100_000}, 422, "bad_json"),
        ({"descriptors": '{"x_tempo": NaN}'}, 422, "bad_json"),
        ({"descriptors": '{"x_tempo": 120}'}, 422, "invalid_input"),
        ({"artist": "Nobody"}, 422, "invalid_field"),
        ({"path": "/etc/passwd"}, 422, "unknown_field"),
        ({"samples": ["8", "16"]}, 422, "repeated_field"),
        ({"observed": "region,week\nUS,0\n"}, 422, "invalid_input"),
        ({"observed": "region,week,streams\nUS,0,-4\n"}, 422, "invalid_input"),
        ({"observed": "/etc/passwd"}, 422, "invalid_table"),
        ({"observed": "region,week,streams\n" + 'US,0,"'}, 422, "invalid_table"),
        ({"observed": "region,week,streams\n" + "US,0,1\n" * 20_001}, 413, "too_many_rows"),
        ({"observed": "a" + ",b" * 5000}, 422, "invalid_table"),
        ({"observed": '[{"region": ["US"], "week": 0, "streams": 1}]'}, 422, "invalid_field"),
        ({"observed": '[{"region": "US", "week": 0, "streams": 1' + "0" * 400 + "}]"}, 422, "invalid_field"),
        ({"observed": "[1, 2]"}, 422, "invalid_table"),
        ({"file": "a song"}, 422, "invalid_field"),
    ],
)
def test_what_is_wrong_is_named_by_a_stable_code(client, fields, status, code):
    answer = post(client, [], **fields)
    assert (answer.status_code, code_of(answer)) == (status, code)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "bad_audio"),
        (b"<html>not a song</html>" * 50, 415, "unsupported_audio"),
        (sound()[:30_000], 422, "bad_audio"),
        (sound(kind="FLAC")[:9_000], 422, "bad_audio"),
        (sound(kind="MP3")[:1_500], 422, "bad_audio"),
        (b"PK\x03\x04" + bytes(2000), 415, "unsupported_audio"),
        (b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(3000), 415, "unsupported_audio"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt " + b"\xff" * 400, 422, "bad_audio"),
    ],
)
def test_files_without_usable_sound_are_refused_and_the_next_is_answered(client, content, status, code):
    answer = post(client, [("song.mp3", content)])
    assert (answer.status_code, code_of(answer)) == (status, code)
    assert "/" not in answer.json()["error"]["message"].replace("and/or", "")


def test_bodies_of_another_kind_are_refused(client):
    def asked(content, kind):
        return client.post("/v1/forecasts", content=content, headers={"content-type": kind})

    assert code_of(asked(b"release_date=2026-12-04", "application/x-www-form-urlencoded")) == "unsupported_body"
    assert asked(b"x", "text/plain").status_code == 415
    assert code_of(asked(b"x", "multipart/form-data")) == "bad_multipart"
    assert asked(b"--x\r\nnonsense", "multipart/form-data; boundary=x").status_code in (400, 422)
    assert code_of(asked(b"[]", "application/json")) == "bad_json"
    assert code_of(asked(b"\xff", "application/json")) == "bad_json"
    assert code_of(asked(b'{"seed": ' + b"9" * 5000 + b"}", "application/json")) in ("bad_json", "invalid_field")
    assert code_of(asked(b'{"artist": "\\ud800"}', "application/json")) == "invalid_field"
    assert client.post("/v1/forecasts").status_code == 415


def test_names_of_files_are_never_paths(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert post(client, [("../../up.wav", sound())], samples="2").json()["track_id"] == "up"
    assert list(tmp_path.iterdir()) == []
    names = [
        "C:\\Windows\\up.wav",
        "/etc/up.mp3",
        "up.wav/",
        "\u202eup.wav",
        "a" * 400 + ".wav",
        "..",
        None,
        "up.tar.gz",
    ]
    labels = labels_of(names)
    assert labels == ["up", "up (2)", "song", "up (3)", "a" * 100, "song (2)", "song (3)", "up.tar"]


@pytest.mark.slow
def test_nothing_is_left_in_temporary_storage(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: set[str] = set()
    stop = threading.Event()

    def watch():
        while not stop.wait(0.002):
            seen.update(path.name for path in tmp_path.iterdir())

    watcher = threading.Thread(target=watch)
    watcher.start()
    large = sound(seconds=100.0)
    assert len(large) > 2 * 2**20  # kept on disk, not in memory
    with TestClient(create_app(folder, limits=Limits(decoders=1)), raise_server_exceptions=False) as client:
        assert post(client, [("a.wav", large)], samples="2").status_code == 200
        assert post(client, [("a.wav", large)], regions=["XX"]).status_code == 422
        assert post(client, [("a.wav", large[:-999_999])]).status_code == 422
        finished(client, post(client, [("a.wav", large), ("b.wav", large)], samples="2").json()["id"])
        stop.set()
        watcher.join()
    # Files are made without a name, so that no exit, not even a kill, can leave one.
    assert seen == set()
    assert list(tmp_path.iterdir()) == []


def test_bodies_are_measured_before_and_while_they_are_read(folder):
    limits = Limits(body_bytes=50_000, json_bytes=20_000, file_bytes=30_000, field_bytes=5_000, decoders=1)
    with TestClient(create_app(folder, limits=limits), raise_server_exceptions=False) as client:
        assert code_of(post(client, [("a.wav", bytes(60_000))])) == "body_too_large"
        assert code_of(post(client, [("a.wav", bytes(40_000))])) == "file_too_large"
        assert code_of(post(client, [], observed="x" * 6_000)) == "field_too_large"
        read = 0

        def stream():
            nonlocal read
            for _ in range(1000):
                read += 1000
                yield b" " * 1000

        answer = client.post("/v1/forecasts", content=stream(), headers={"content-type": "application/json"})
        assert (answer.status_code, code_of(answer)) == (413, "body_too_large")
        told = {"content-type": "application/json", "content-length": "1000000000"}
        assert client.post("/v1/forecasts", content=b"{}", headers=told).status_code == 413


def test_a_body_that_comes_too_slowly_is_not_waited_for(folder):
    app = create_app(folder, limits=Limits(idle_seconds=0.05))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
    scope = {"type": "http", "method": "POST", "path": "/v1/forecasts", "raw_path": b"", "query_string": b""}
    scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "server": ("x", 80), "client": ("y", 1)}
    said = []

    async def receive():
        await asyncio.sleep(20)

    async def send(message):
        said.append(message)

    asyncio.run(app(scope, receive, send))
    assert said[0]["status"] == 408
    assert b"too_slow" in said[1]["body"]


def test_who_cannot_be_served_now_is_told_to_come_again(folder):
    app = create_app(folder, limits=Limits(waiting=1, request_seconds=1.0, decoders=1))
    with TestClient(app, raise_server_exceptions=False) as client:
        held, release = threading.Event(), threading.Event()

        def hold(_):
            held.set()
            release.wait(20)

        app.state.service.desk.submit(None, hold)
        held.wait(5)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(post, client, [])
            while not app.state.service.gate.full:
                time.sleep(0.01)
            second = post(client, [])
            assert (second.status_code, code_of(second)) == (503, "busy")
            assert int(second.headers["retry-after"]) > 0
            assert code_of(client.get("/readyz")) == "busy"
            assert client.get("/healthz").json() == {"status": "ok"}
            late = first.result(10)
        assert (late.status_code, code_of(late)) == (503, "timed_out")
        release.set()
        assert post(client, []).status_code == 200
        assert client.get("/readyz").json() == {"status": "ok"}


def test_a_key_is_asked_for_where_one_is_set(folder):
    with TestClient(create_app(folder, api_key="secret-word")) as client:
        for address in ("/v1/model", "/v1/regions", "/metrics", "/v1/nothing"):
            assert code_of(client.get(address)) == "unauthorized"
            assert client.get(address, headers={"X-API-Key": "secret-wor"}).status_code == 401
        assert client.get("/v1/model", headers={"X-API-Key": "secret-word"}).status_code == 200
        assert client.get("/v1/model", headers={"Authorization": "Bearer secret-word"}).status_code == 200
        assert client.get("/healthz").status_code == 200
        assert client.get("/openapi.json").json()["security"] == [{"key": []}]


def test_pages_of_other_sites_reach_nothing(folder):
    with TestClient(create_app(folder, hosts=("localhost", "::1")), base_url="http://localhost:8000") as client:
        assert client.get("/v1/model").status_code == 200
        assert client.get("/v1/model", headers={"host": "[::1]:8000"}).status_code == 200
        assert code_of(client.get("/v1/model", headers={"host": "rebound.example"})) == "wrong_host"
        asked = client.post("/v1/forecasts", json={}, headers={"sec-fetch-site": "cross-site"})
        assert code_of(asked) == "other_site"
        answer = client.get("/v1/model", headers={"origin": "http://other.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_has_safe_headers(client):
    for answer in (client.get("/healthz"), client.get("/nothing"), client.put("/v1/model"), post(client, [])):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
    assert code_of(client.get("/../pyproject.toml")) == "not_found"
    assert code_of(client.put("/v1/model")) == "method_not_allowed"


def test_the_page_is_served_with_its_kinds(client):
    page = client.get("/")
    if page.status_code == 404:
        pytest.skip("no page in this copy")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert client.get("/style.css").headers["content-type"].startswith("text/css")
    assert client.get("/app.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/web/app.js").status_code == 404


def test_what_the_service_knows_of_itself_is_told(client, folder):
    told = strictly(client.get("/v1/model").content)
    assert (told["horizon"], told["frequency"], told["hears"], told["catalogue_songs"]) == (12, "W", True, 3)
    regions = strictly(client.get("/v1/regions").content)["regions"]
    assert regions[0] == {"region": "US", "trained": True, "last_chart": "2026-11-19", "floor": 800_000.0}
    post(client, [], regions=["XX"])
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    assert 'mp3model_requests_total{method="POST",route="/v1/forecasts",status="200"}' in metrics.text
    assert "process_resident_memory_bytes" in metrics.text


def test_the_description_names_every_address_its_errors_and_examples(client):
    told = client.get("/openapi.json").json()
    addresses = {"/v1/forecasts", "/v1/attributions", "/v1/jobs/{identity}", "/v1/jobs/{identity}/events"}
    addresses |= {"/v1/model", "/v1/regions", "/healthz", "/readyz", "/metrics"}
    assert set(told["paths"]) == addresses
    forecast = told["paths"]["/v1/forecasts"]["post"]
    assert set(forecast["responses"]) == {*map(str, (200, 202, 400, 401, 403, 408, 413, 415, 422, 500, 503))}
    assert set(forecast["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    (example,) = forecast["requestBody"]["content"]["application/json"]["examples"].values()
    assert client.post("/v1/forecasts", json=example["value"]).status_code == 200
    refused = told["components"]["schemas"]["Refused"]
    assert refused["required"] == ["error"]
    assert "Retry-After" in forecast["responses"]["503"]["headers"]


def test_a_dataset_gives_floors_and_artists_and_its_place_stays_unsaid(folder, tmp_path):
    data = charts_dataset(tmp_path / "dataset")
    with TestClient(create_app(folder, data), raise_server_exceptions=False) as client:
        assert [row["region"] for row in client.get("/v1/regions").json()["regions"]] == ["GB", "US"]
        known = post(client, [], artist="Artist 1", release_date="2024-06-28")
        assert known.status_code == 200
        unknown = post(client, [], artist="Nobody", release_date="2024-06-28")
        flags = [flag for flag in unknown.json()["flags"] if flag["code"] == "artist_unknown"]
        assert len(flags) == 1
        assert str(tmp_path) not in unknown.text


def test_seconds_of_a_song_are_told_for_each_region(client):
    answer = post(client, [("one.wav", sound(seconds=3.5))], "/v1/attributions", samples="8")
    assert answer.status_code == 200, answer.text
    told = strictly(answer.content)
    assert told["seconds"] == 4
    assert [(row["region"], row["second"]) for row in told["effects"]] == [
        (region, second) for region in ("US", "GB") for second in range(4)
    ]
    assert code_of(post(client, [], "/v1/attributions")) == "invalid_field"
    assert code_of(post(client, [("one.wav", sound())], "/v1/attributions", observed="x")) == "unknown_field"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "{folder}/.."], "do you mean"),
        (["--model", "{folder}", "--data", "{folder}"], "dataset.json"),
        (["--model", "{folder}", "--port", "70000"], "70000"),
        (["--model", "{folder}", "--workers", "0"], "workers"),
        (["--model", "{folder}", "--host", "256.0.0.1"], "256.0.0.1"),
        (["--model", "{folder}", "--api-key-file", "{folder}/none"], "none"),
    ],
)
def test_a_service_that_cannot_start_says_why_in_one_line(folder, capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--port", "0", *[word.format(folder=folder) for word in words]])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_port_in_use_is_named(folder, capsys):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit):
            main(["serve", "--model", str(folder), "--port", port])
    assert f"port {port}" in capsys.readouterr().err


def test_a_missing_extra_is_named_with_its_mend(folder, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("mp3model.serving.api")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("mp3model.serving.api", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--model", str(folder)])
    assert stopped.value.code == 2
    assert "pip install 'mp3model[serve]'" in capsys.readouterr().err
