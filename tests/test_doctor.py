"""`mp3model doctor` in broken installations, made by putting broken packages before the real ones."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mp3model.serving import doctor

TORCH = metadata.version("torch")
VISION = f'"torchvision==0.{int(TORCH.split(".")[1]) + 15}.*"'
# What the wheels say, word for word but for the path.
UNDEFINED = "/site-packages/torchaudio/lib/_torchaudio.abi3.so: undefined symbol: aoti_torch_abi_version"
NO_CUDART = "libcudart.so.13: cannot open shared object file: No such file or directory"


def package(folder: Path, name: str, code: str) -> Path:
    """A package that does what the code says when it is imported."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    return folder


def distribution(folder: Path, name: str, version: str, *needs: str) -> Path:
    """What pip records of an installed distribution."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    return folder


def examined(overlay: Path, *words: str, prepare: Callable[[], None] | None = None, **variables: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(overlay), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-m", "mp3model.cli", "doctor", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=environment,
        preexec_fn=prepare,
    )


def faults(done: Any) -> dict[str, dict[str, str]]:
    found = json.loads(done.stdout)
    wrong = {finding["name"]: finding for finding in found["findings"] if finding["status"] == "fault"}
    assert found["faults"] == len(wrong)
    assert done.returncode == (1 if wrong else 0)
    assert "Traceback" not in done.stderr
    return wrong


def test_without_torch_all_else_is_still_looked_at_and_the_cause_is_named_once(tmp_path):
    text = "libcudnn.so.9: cannot open shared object file: No such file or directory"
    package(tmp_path, "torch", f"raise ImportError({text!r})")
    done = examined(tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[-1].endswith("fault(s)")
    (torch,) = [line for line in lines if line.startswith("  fault   torch:")]
    assert text in torch
    assert 'mend: pip install --force-reinstall "torch>=' in torch
    assert any(line.startswith("  fault   torchvision: cannot be imported while torch cannot") for line in lines)
    assert any(line.startswith("  ok      wav: decoded by soundfile") for line in lines)
    assert any("self-test: not tried" in line for line in lines)
    assert "Traceback" not in done.stderr


def test_a_torchvision_of_another_torch_is_named_with_the_command_that_mends_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(distribution(tmp_path, "torchvision", "0.27.0", "numpy", "torch==2.12.0")))
    (finding,) = doctor._packages(["torchvision>=0.26"])
    assert finding.status == "fault"
    assert finding.told == f"0.27.0 was built for torch ==2.12.0, and torch is {TORCH}"
    assert finding.mend == f"pip install {VISION}"


@pytest.mark.parametrize(
    ("torch", "audio", "fits"),
    [("2.14.1+cpu", "2.11.0", False), ("2.14.1", "2.11.0+cpu", False), ("2.14.1+cpu", "2.11.0+cpu", True)],
)
def test_wheels_with_and_without_cuda_side_by_side_are_told_apart(tmp_path, monkeypatch, torch, audio, fits):
    distribution(tmp_path, "torch", torch)
    monkeypatch.syspath_prepend(str(distribution(tmp_path, "torchaudio", audio)))
    needed = {"torch": "torch>=2.11,<2.15", "torchaudio": "torchaudio>=2.11,<2.12"}
    finding = doctor._of_one_build("torchaudio", needed)
    assert (finding is None) is fits
    if finding is not None:
        assert "different builds" in finding.told
        assert finding.mend == 'pip install --force-reinstall "torch>=2.11,<2.15" "torchaudio>=2.11,<2.12"'


@pytest.mark.parametrize(
    ("name", "error", "told", "mend"),
    [
        ("torchaudio", OSError(UNDEFINED), "was built for another torch", "--no-deps"),
        ("torchaudio", OSError(NO_CUDART), "is a build for CUDA beside a torch without it", '"torch>=2"'),
        (
            "torchvision",
            RuntimeError("operator torchvision::nms does not exist"),
            "was built for another torch",
            f"pip install --force-reinstall --no-deps {VISION}",
        ),
        ("soundfile", OSError("sndfile library not found"), "comes without libsndfile", '"soundfile>=1"'),
        ("av", ModuleNotFoundError("No module named 'x'", name="x"), "lacks x", '"av>=1"'),
        ("av", ImportError("broken\nover lines"), "cannot be imported (ImportError: broken)", '"av>=1"'),
    ],
)
def test_what_an_import_says_is_turned_into_what_is_wrong_and_a_command(name, error, told, mend):
    needed = {"torch": "torch>=2", "torchaudio": "torchaudio>=2", "soundfile": "soundfile>=1", "av": "av>=1"}
    found = doctor._why(name, error, needed | {"torchvision": "torchvision>=0"})
    assert told in found[0]
    assert mend in found[1]
    assert found[1].startswith("pip install")
    assert "\n" not in "".join(found)


def test_a_version_that_does_not_fit_and_a_package_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(distribution(tmp_path, "tqdm", "4.1")))
    old, absent = doctor._packages(["tqdm>=4.66", "no-such-package>=1"])
    assert (old.told, old.mend) == ("is 4.1, mp3model needs >=4.66", 'pip install "tqdm>=4.66"')
    assert (absent.told, absent.mend) == ("is not installed", 'pip install "no-such-package>=1"')


def test_an_extra_that_is_not_installed_is_no_fault_but_one_too_old_is(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(distribution(tmp_path, "lightgbm", "1.0")))
    found = list(doctor._extras({"boosted": ["lightgbm>=4.5"], "more": ["no-such-package>=1"], "test": ["nothing"]}))
    assert [finding.status for finding in found] == ["fault", "note"]
    assert found[0].mend == 'pip install "mp3model[boosted]"'
    assert 'pip install "mp3model[more]"' in found[1].told


def test_every_requirement_of_the_project_is_looked_at():
    needed, extras = doctor.requirements()
    names = [doctor._parsed(requirement).name for requirement in needed]
    assert {"torch", "torchaudio", "torchvision", "soundfile", "av", "httpx"} <= set(names)
    assert {"boosted", "serve", "export"} <= set(extras)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder in which nobody may write")
def test_a_folder_that_cannot_be_written_is_named_with_what_to_set(monkeypatch):
    monkeypatch.setenv("HF_HOME", "/proc/nowhere")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    by_name = {finding.name: finding for finding in doctor._disk()}
    assert by_name["downloads"].status == "fault"
    assert "/proc/nowhere" in by_name["downloads"].told
    assert by_name["downloads"].mend.startswith("export HF_HOME=")
    assert by_name["runs"].status == "ok"


def test_every_decoder_hears_its_tone():
    found = list(doctor._decoders())
    assert [finding.name for finding in found] == ["wav", "flac", "mp3", "ogg", "m4a"]
    assert {finding.status for finding in found} == {"ok"}


@pytest.mark.slow
def test_a_healthy_installation_has_no_fault_and_its_self_test_is_short(tmp_path):
    done = examined(tmp_path, "--json")
    assert faults(done) == {}
    parts = {finding["part"] for finding in json.loads(done.stdout)["findings"]}
    assert parts == {"python", "packages", "processor", "gpu", "decoders", "extras", "disk", "self-test"}


@pytest.mark.slow
def test_a_torchaudio_linked_against_another_torch(tmp_path):
    package(tmp_path, "torchaudio", f"raise OSError({UNDEFINED!r})")
    wrong = faults(examined(tmp_path, "--json"))
    assert "was built for another torch" in wrong["torchaudio"]["told"]
    assert wrong["torchaudio"]["mend"].startswith("pip install --force-reinstall --no-deps")
    assert "torch" not in wrong


@pytest.mark.slow
def test_a_torchvision_of_the_wrong_version(tmp_path):
    distribution(tmp_path, "torchvision", "0.21.0", "torch==2.6.0")
    done = examined(tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  fault ")]
    assert line.startswith("  fault   torchvision: ")
    assert line.endswith(f"mend: pip install {VISION}")


@pytest.mark.slow
def test_missing_decoders_are_named_by_the_formats_that_need_them(tmp_path):
    for name in ("soundfile", "av"):
        package(tmp_path, name, f'raise ModuleNotFoundError("No module named {name!r}", name={name!r})')
    wrong = faults(examined(tmp_path, "--json"))
    assert {"soundfile", "av", "wav", "flac", "mp3", "ogg", "m4a"} <= set(wrong)
    assert "soundfile" in wrong["wav"]["told"]
    assert 'pip install --force-reinstall "av>=' in wrong["m4a"]["mend"]


@pytest.mark.slow
def test_a_disk_that_takes_no_more_bytes(tmp_path):
    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    wrong = faults(examined(tmp_path, "--json", prepare=full))
    assert {"runs", "temporary files", "downloads"} <= set(wrong)
    assert "export TMPDIR=" in wrong["temporary files"]["mend"]
