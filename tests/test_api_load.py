"""The HTTP service under load and abuse, as a process of its own; every address by cases made from its description."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import write_model

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

pytestmark = pytest.mark.slow
CASES = int(os.environ.get("MP3MODEL_API_CASES", "2000"))
ABUSES = int(os.environ.get("MP3MODEL_API_ABUSES", "1000"))
WARM_UP = 60
DIFFICULT = ("history", "observed", "artist", "descriptors")
DATE = "2026-12-04"


def sound(pitch: float, kind: str = "MP3", seconds: float = 2.0) -> bytes:
    waveform = 0.2 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * 16_000)) / 16_000)
    stream = io.BytesIO()
    soundfile.write(stream, waveform, 16_000, format=kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("load") / "model")


@contextlib.contextmanager
def served(folder: Path, *words: str, **environment: str):
    """A service as a user starts it: its process and address; it must end by itself when told to."""
    command = [sys.executable, "-m", "mp3model.cli", "serve", "--model", str(folder), "--port", "0", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("mp3model listens on http://127.0.0.1:"), line + process.stderr.read()
        yield process, line.split()[3]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def asked(client, content: bytes, **fields) -> httpx.Response:
    told = {"release_date": DATE, "samples": "16", "regions": ["US", "GB"]} | fields
    return client.post("/v1/forecasts", data=told, files=[("file", ("song.mp3", content))])


def memory(process) -> float:
    """Resident megabytes of a process, its children left out."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def children(process) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_fifty_clients_lose_nothing_and_get_what_each_would_get_alone(folder):
    songs = [sound(110.0 * (2 ** (number / 12))) for number in range(20)]
    with served(folder) as (process, address):
        with httpx.Client(base_url=address, timeout=300) as client:
            alone = [asked(client, song).content for song in songs]
            before = memory(process)
        seconds: list[float] = []

        def client_of(number: int) -> list[bool]:
            right = []
            with httpx.Client(base_url=address, timeout=300) as client:
                for turn in range(10):
                    which = (7 * number + turn) % len(songs)
                    began = time.perf_counter()
                    answer = asked(client, songs[which])
                    seconds.append(time.perf_counter() - began)
                    right.append(answer.status_code == 200 and answer.content == alone[which])
            return right

        began = time.perf_counter()
        with ThreadPoolExecutor(50) as pool:
            right = [one for part in pool.map(client_of, range(50)) for one in part]
        took = time.perf_counter() - began
        after = memory(process)
    assert len(right) == 500
    assert all(right)
    print(
        f"\n500 requests by 50 clients: {500 / took:.1f} a second, median {np.median(seconds):.2f} s, "
        f"p95 {np.quantile(seconds, 0.95):.2f} s, memory {before:.0f} to {after:.0f} MB"
    )


def abuses(generator: random.Random):
    """A request that no honest client makes: a function of a client."""
    good = sound(220.0)
    mutant = bytearray(good)
    for _ in range(generator.randint(1, 30)):
        mutant[generator.randrange(len(mutant))] = generator.randrange(256)
    kinds = [
        lambda client: asked(client, good[: generator.randrange(len(good))]),
        lambda client: asked(client, bytes(mutant)),
        lambda client: asked(client, generator.randbytes(generator.randrange(100_000))),
        lambda client: asked(client, b"PK\x03\x04" + generator.randbytes(500)),
        lambda client: asked(
            client, b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\xff\xff\xff\xff\xff\xff" + bytes(400)
        ),
        lambda client: asked(client, b"fLaC\x80\0\0\x22\xff\xff\xff\xff" + b"\xff" * 60),
        lambda client: asked(client, good, regions=[f"R{number}" for number in range(3000)]),
        lambda client: asked(client, good, samples="9" * 4000),
        lambda client: asked(client, good, observed="region,week,streams\n" + "US,0,1\n" * 30_000),
        lambda client: asked(client, good, observed="," * 200_000),
        lambda client: asked(client, good, history="[" * 50_000),
        lambda client: client.post("/v1/forecasts", content=b"{" * 5_000_000, headers={"content-type": "text/json"}),
        lambda client: client.post(
            "/v1/forecasts", content=b"[" * 100_000, headers={"content-type": "application/json"}
        ),
        lambda client: client.post(
            "/v1/forecasts", content=b"--b\r\n" * 20_000, headers={"content-type": "multipart/form-data; boundary=b"}
        ),
        lambda client: client.post("/v1/forecasts", files=[("file", ("../../../etc/passwd", good))] * 3),
        lambda client: client.post("/v1/forecasts", files=[("file", (f"{number}.mp3", b"x")) for number in range(150)]),
        lambda client: client.get("/v1/jobs/" + "%2e%2e%2f" * 30 + "etc/passwd"),
        lambda client: client.get("/" + "../" * 40 + "etc/passwd"),
        lambda client: client.request("TRACE", "/v1/model"),
        lambda client: client.get("/v1/model", headers={"x": "y" * 30_000}),
    ]
    return generator.choice(kinds)


@pytest.mark.timeout(120 + ABUSES / 5)
def test_abuse_breaks_nothing_leaves_no_file_and_takes_no_memory(folder, tmp_path):
    generator = random.Random(0)
    statuses: dict[int, int] = {}
    with (
        served(folder, TMPDIR=str(tmp_path)) as (process, address),
        httpx.Client(base_url=address, timeout=120) as client,
    ):
        for turn in range(WARM_UP + ABUSES):
            if turn == WARM_UP:
                before = memory(process)
                statuses.clear()
            try:
                status = abuses(generator)(client).status_code
            except httpx.TransportError:
                # A body that is refused by its length is not read: the connection is closed on the sender.
                status = 0
            statuses[status] = statuses.get(status, 0) + 1
            assert list(tmp_path.iterdir()) == []
        after = memory(process)
        assert asked(client, sound(220.0)).status_code == 200
        assert len(children(process)) <= 2
    print(f"\n{ABUSES} abusive requests: {dict(sorted(statuses.items()))}, memory {before:.0f} to {after:.0f} MB")
    assert not [status for status in statuses if status >= 500]
    assert after - before < 50


def test_files_that_wait_for_a_decoder_stay_out_of_memory(folder):
    large, clients = sound(220.0, "WAV", 600.0), 10
    assert len(large) > 18 * 2**20
    with served(folder, "--workers", "1") as (process, address):
        with httpx.Client(base_url=address, timeout=120) as client:
            assert asked(client, large[:-5_000_000]).status_code == 422
        before = memory(process)

        def post(_: int) -> int:
            with httpx.Client(base_url=address, timeout=120) as client:
                return asked(client, large[:-5_000_000]).status_code

        with ThreadPoolExecutor(clients) as pool:
            statuses = list(pool.map(post, range(clients)))
        most = int(Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    print(f"\n{clients} files of {len(large) / 2**20:.0f} MB at once: memory {before:.0f} MB, at most {most:.0f} MB")
    assert statuses == [422] * clients
    assert most - before < 4 * len(large) / 2**20


def test_a_killed_service_leaves_neither_files_nor_processes(folder, tmp_path):
    large = sound(220.0, "WAV", 200.0)
    with contextlib.suppress(AssertionError), served(folder, TMPDIR=str(tmp_path)) as (process, address):
        with httpx.Client(base_url=address, timeout=60) as client:
            assert asked(client, sound(220.0)).status_code == 200
            decoders = children(process)
            assert decoders

            def half():
                yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + large
                process.kill()
                process.wait()
                yield large

            headers = {"content-type": "multipart/form-data; boundary=b"}
            with pytest.raises(httpx.TransportError):
                client.post("/v1/forecasts", content=half(), headers=headers)
        for _ in range(100):
            if not any(Path(f"/proc/{pid}").exists() for pid in decoders):
                break
            time.sleep(0.1)
        assert not [pid for pid in decoders if Path(f"/proc/{pid}").exists()]
        assert list(tmp_path.iterdir()) == []
        raise AssertionError("the service was killed, so it cannot end in good order")


@pytest.mark.timeout(120 + CASES / 2)
def test_cases_made_from_the_description_get_answers_that_fit_it(folder):
    schemathesis = pytest.importorskip("schemathesis")
    from unittest import SkipTest

    from hypothesis import HealthCheck, Phase, given, settings, strategies
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    from mp3model.serving.api import create_app
    from mp3model.serving.requests import Limits

    app = create_app(folder, limits=Limits(samples=32, dates=3, files=3, decoders=1))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    checks = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    operations = [result.ok() for result in schema.get_all_operations()]
    song, days = sound(220.0), strategies.dates(date(1900, 1, 1), date(2099, 12, 31))
    # Most of what can be asked is asked of two addresses; half of the cases break the description on purpose.
    shares = {"/v1/forecasts": 0.7, "/v1/attributions": 0.2}
    others = 0.1 / (len(operations) - len(shares))
    seen: dict[str, int] = {}

    def answered(case) -> None:
        answer = case.call()
        name = f"{case.method} {case.path} {answer.status_code}"
        seen[name] = seen.get(name, 0) + 1
        case.validate_response(answer, checks=checks)

    def try_all(operation, mode, cases: int) -> None:
        @settings(
            max_examples=cases,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), honest=strategies.none() | days)
        def holds(case, honest):
            if honest is not None and isinstance(case.body, dict):
                # Random bytes are no song, and random tables fit no calendar: half of the cases get further.
                case.body = {name: value for name, value in case.body.items() if name not in DIFFICULT}
                case.body["release_date"] = honest.isoformat()
                if case.media_type == "multipart/form-data":
                    case.body["file"] = song if case.path == "/v1/attributions" else [song]
            answered(case)

        # An address that takes nothing cannot be asked wrongly.
        with contextlib.suppress(SkipTest, Unsatisfiable):
            holds()

    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try_all(operation, mode, max(1, int(np.ceil(1.1 * CASES * shares.get(operation.path, others) / 2))))
    print(f"\n{sum(seen.values())} cases: {json.dumps(dict(sorted(seen.items())), indent=1)}")
    assert sum(seen.values()) >= CASES
    assert seen["POST /v1/forecasts 200"] > CASES / 50
