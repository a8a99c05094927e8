"""An installation in; what of it works, what does not and the command that mends it out, for people and for scripts.

Nothing here takes it for granted that anything can be imported but Python's own library.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
import wave
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = "mp3model"
# A distribution that is imported by another name than its own.
MODULES = {"scikit-learn": "sklearn", "pyyaml": "yaml", "python-multipart": "multipart"}
# They come as a set: extension modules of the latter two are linked against one build of torch.
TORCH_SET = ("torch", "torchaudio", "torchvision")
# torchvision 0.15 + N is built for torch 2.N.
VISION_OFFSET = 15
DECODERS = {"wav": "soundfile", "flac": "soundfile", "mp3": "av", "ogg": "av", "m4a": "av"}
# Not of use to whoever runs the program.
_OTHER_EXTRAS = {"test", "all"}
GIB = 2**30
LEAST_FREE = GIB
_TONE_HZ, _TONE_SECONDS = 1000, 0.5


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        part: python, packages, processor, gpu, decoders, extras, disk or self-test.
        name: What was looked at.
        status: ok, note (nothing is wrong, but one may want to know), or fault.
        told: What was found.
        mend: What to do about a fault.
    """

    part: str
    name: str
    status: str
    told: str
    mend: str = ""

    def line(self) -> str:
        """The finding as a line of a terminal."""
        mend = f"; mend: {self.mend}" if self.mend else ""
        return f"  {self.status:<7} {self.name}: {self.told}{mend}"


def doctor(as_json: bool = False) -> int:
    """Looks at everything, prints what was found; 0 if nothing is wrong, 1 if something is."""
    began = time.perf_counter()
    findings: list[Finding] = []
    # A library that greets on standard output would spoil the JSON.
    with redirect_stdout(sys.stderr):
        for part, check in _checks().items():
            try:
                findings += check(findings)
            except Exception as error:  # whatever is broken, the rest is still looked at
                findings.append(Finding(part, part, "fault", _first_line(error), "see the findings above"))
    faults = sum(finding.status == "fault" for finding in findings)
    if as_json:
        told = {"faults": faults, "seconds": round(time.perf_counter() - began, 1), "findings": _plain(findings)}
        print(json.dumps(told, indent=2))
    else:
        print(f"python {platform.python_version()} on {platform.machine()}, {sys.prefix}")
        for finding in findings:
            print(finding.line())
        print(f"{time.perf_counter() - began:.0f} s; " + ("all is well" if not faults else f"{faults} fault(s)"))
    return 1 if faults else 0


def _checks() -> dict[str, Callable[[list[Finding]], list[Finding]]]:
    return {
        "python": lambda _: [_python()],
        "packages": lambda _: list(_packages(requirements()[0])),
        "processor": lambda _: list(_processor()),
        "gpu": lambda _: list(_gpu()),
        "decoders": lambda _: list(_decoders()),
        "extras": lambda _: list(_extras(requirements()[1])),
        "disk": lambda _: list(_disk()),
        "self-test": lambda found: list(_self_test(found)),
    }


def _plain(findings: list[Finding]) -> list[dict[str, str]]:
    return [asdict(finding) for finding in findings]


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    line = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """What the project asks for, and for each extra: from pyproject.toml in a checkout, else from the installation.

    An installation that points into a checkout may have been made from an older one.
    """
    source = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if source.is_file():
        import tomllib

        project = tomllib.loads(source.read_text()).get("project", {})
        if project.get("name") == PACKAGE:
            return project["dependencies"], project["optional-dependencies"]
    needed: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in metadata.requires(PACKAGE) or []:
        requirement, _, marker = line.partition(";")
        extra = marker.partition("extra ==")[2].strip().strip("\"'")
        (extras.setdefault(extra, []) if extra else needed).append(requirement.strip())
    return needed, extras


def _parsed(requirement: str) -> Any:
    from packaging.requirements import Requirement

    return Requirement(requirement)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    version = platform.python_version()
    fine = sys.version_info >= (3, 11)
    return Finding(
        "python",
        "python",
        "ok" if fine else "fault",
        version,
        "" if fine else "make an environment with Python 3.11 or newer",
    )


def _packages(needed: list[str]) -> Iterator[Finding]:
    """Each required distribution: there, of a fitting version, of one build with torch, importable."""
    by_name = {_parsed(requirement).name: requirement for requirement in needed}
    order = [name for name in TORCH_SET if name in by_name] + [name for name in by_name if name not in TORCH_SET]
    broken: set[str] = set()
    for name in order:
        requirement = _parsed(by_name[name])
        finding = _of_one_build(name, by_name) or _installed(name, requirement) or _imported(name, by_name, broken)
        if finding.status == "fault":
            broken.add(str(MODULES.get(name, name)))
        yield finding


def _installed(name: str, requirement: Any) -> Finding | None:
    version = _version(name)
    if version is None:
        return Finding("packages", name, "fault", "is not installed", f'pip install "{requirement}"')
    if not requirement.specifier.contains(version, prereleases=True):
        asked = f"is {version}, {PACKAGE} needs {requirement.specifier}"
        return Finding("packages", name, "fault", asked, f'pip install "{requirement}"')
    return None


def _of_one_build(name: str, by_name: Mapping[str, str]) -> Finding | None:
    """Whether torchaudio or torchvision was built for the torch that is here, as far as versions tell."""
    torch, version = _version("torch"), _version(name)
    if name not in TORCH_SET[1:] or torch is None or version is None:
        return None
    for line in metadata.requires(name) or []:
        asked = _parsed(line)
        if asked.name == "torch" and not asked.specifier.contains(torch, prereleases=True):
            told = f"{version} was built for torch {asked.specifier}, and torch is {torch}"
            return Finding("packages", name, "fault", told, _fitting(name, torch, by_name))
    builds = [build for build in (_build(torch), _build(version)) if build]
    if "cpu" in builds and (len(builds) == 1 or builds[0] != builds[1]):
        told = f"{version} and torch {torch} are of different builds, one with and one without CUDA"
        return Finding("packages", name, "fault", told, _whole_set(by_name))
    return None


def _build(version: str) -> str:
    """The build a wheel's version names, `cpu` or `cu130`; nothing where it names none."""
    return version.partition("+")[2]


def _fitting(name: str, torch: str, by_name: Mapping[str, str]) -> str:
    """The command that installs the torchaudio or torchvision of this torch."""
    minor = int(torch.split(".")[1])
    wanted = by_name[name] if name == "torchaudio" else f"torchvision==0.{minor + VISION_OFFSET}.*"
    return f'pip install "{wanted}"'


def _whole_set(by_name: Mapping[str, str]) -> str:
    """The command that installs all three anew: pip takes torch 2.14.1+cpu for torch 2.14.1 and would leave it."""
    return "pip install --force-reinstall " + " ".join(f'"{by_name[name]}"' for name in TORCH_SET if name in by_name)


def _imported(name: str, by_name: Mapping[str, str], broken: set[str]) -> Finding:
    try:
        importlib.import_module(MODULES.get(name, name))
    except BaseException as error:  # a broken extension module may raise anything
        if isinstance(error, KeyboardInterrupt):
            raise
        cause = _through(error) & broken
        if cause:
            told = f"cannot be imported while {sorted(cause)[0]} cannot"
            return Finding("packages", name, "fault", told, f"that of {sorted(cause)[0]}")
        return Finding("packages", name, "fault", *_why(name, error, by_name))
    return Finding("packages", name, "ok", str(_version(name)))


def _through(error: BaseException) -> set[str]:
    """Packages whose code an import went through before it failed, and the one that it did not find."""
    frames = traceback.walk_tb(error.__traceback__)
    names = {str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames}
    return names | {(getattr(error, "name", None) or "").partition(".")[0]}


def _why(name: str, error: BaseException, by_name: Mapping[str, str]) -> tuple[str, str]:
    """What an import that failed means, and what mends it."""
    text, said = str(error), _first_line(error)
    torch = _version("torch")
    if name in TORCH_SET[1:] and torch is not None:
        if any(library in text for library in ("libcudart", "libcublas", "libc10_cuda", "libtorch_cuda")):
            return f"is a build for CUDA beside a torch without it, or for another CUDA ({said})", _whole_set(by_name)
        if "undefined symbol" in text or "does not exist" in text or "Could not load this library" in text:
            command = _fitting(name, torch, by_name).replace("pip install", "pip install --force-reinstall --no-deps")
            return f"was built for another torch than {torch} ({said})", command
    if name == "torch" and ("libcu" in text or "libnv" in text):
        return f"lacks a library of CUDA that comes with it ({said})", _whole_set(by_name)
    if name == "soundfile" and "sndfile" in text:
        return f"comes without libsndfile ({said})", f'pip install --force-reinstall "{by_name[name]}"'
    missing = getattr(error, "name", None)
    if isinstance(error, ModuleNotFoundError) and missing and missing.partition(".")[0] != MODULES.get(name, name):
        return f"lacks {missing} ({said})", f'pip install --force-reinstall "{by_name[name]}"'
    return f"cannot be imported ({said})", f'pip install --force-reinstall --no-deps "{by_name[name]}"'


def _torch() -> Any:
    """torch, or None where it cannot be imported, which `_packages` has told by then."""
    try:
        return importlib.import_module("torch")
    except Exception:
        return None


def _processor() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch = _torch()
    if torch is None:
        yield Finding("processor", "processor", "note", f"{cores} core(s); threads unknown without torch")
        return
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    units = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags]
    bf16 = any(name.endswith("bf16") for name in units)
    threads = torch.get_num_threads()
    told = f"{cores} core(s), {threads} thread(s) of torch, bfloat16 {'in hardware' if bf16 else 'emulated'}"
    yield Finding("processor", "processor", "ok", told + (f" ({', '.join(units[:2])})" if units else ""))
    if threads > cores:
        told = f"torch would start {threads} threads on {cores} core(s): export OMP_NUM_THREADS={cores}"
        yield Finding("processor", "threads", "note", told)


def _gpu() -> Iterator[Finding]:
    torch = _torch()
    driver = Path("/proc/driver/nvidia/version").is_file() or shutil.which("nvidia-smi") is not None
    if torch is None:
        yield Finding("gpu", "gpu", "note", "not looked at: torch cannot be imported")
        return
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, whole = torch.cuda.mem_get_info(number)
            told = f"{torch.cuda.get_device_name(number)}, {free / GIB:.1f} of {whole / GIB:.1f} GiB free"
            major, minor = torch.cuda.get_device_capability(number)
            bf16 = "bfloat16" if major >= 8 else "no bfloat16: use --precision fp16"
            full = free < 2 * GIB
            told += f", compute capability {major}.{minor}, {bf16}, CUDA {torch.version.cuda}"
            mend = "end what fills its memory (nvidia-smi names it)" if full else ""
            yield Finding("gpu", f"cuda:{number}", "fault" if full else "ok", told, mend)
    elif not driver:
        yield Finding("gpu", "gpu", "note", "none: the processor does the work")
    elif torch.version.cuda is None:
        by_name = {_parsed(line).name: line for line in requirements()[0]}
        told = f"there is a driver, but torch {_version('torch')} is built without CUDA"
        yield Finding("gpu", "gpu", "fault", told, _whole_set(by_name))
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield Finding("gpu", "gpu", "note", "hidden by CUDA_VISIBLE_DEVICES: the processor does the work")
    else:
        try:
            torch.cuda.init()
            reason = "no device is seen"
        except Exception as error:
            reason = _first_line(error)
        told = f"there is a driver, but torch for CUDA {torch.version.cuda} cannot use it ({reason})"
        yield Finding("gpu", "gpu", "fault", told, f"update the driver to one of CUDA {torch.version.cuda} or newer")


def _decoders() -> Iterator[Finding]:
    """Decodes half a second of a tone in every format, as songs are decoded."""
    for kind, library in DECODERS.items():
        needed, _ = requirements()
        wanted = next((line for line in needed if _parsed(line).name == library), library)
        name = {"soundfile": "soundfile (libsndfile)", "av": "PyAV (FFmpeg)"}[library]
        mend = f'pip install --force-reinstall "{wanted}"'
        try:
            sound = _tone_file(kind)
        except Exception as error:
            yield Finding(
                "decoders", kind, "fault", f"no {kind} could be made to try {name} ({_first_line(error)})", mend
            )
            continue
        try:
            seconds, loudness = _heard(sound)
        except Exception as error:
            yield Finding("decoders", kind, "fault", f"{name} cannot decode it ({_first_line(error)})", mend)
            continue
        # Coding delay and padding lengthen a short file by up to a tenth of a second.
        fine = abs(seconds - _TONE_SECONDS) < 0.15 and 0.15 < loudness < 0.45
        told = f"decoded by {name}" if fine else f"{name} decodes {seconds:.2f} s at {loudness:.2f} of full scale"
        yield Finding("decoders", kind, "ok" if fine else "fault", told, "" if fine else mend)


def _heard(sound: bytes) -> tuple[float, float]:
    """Seconds of a decoded file and the part of its energy, as a root mean square, that the tone has."""
    import numpy as np

    from mp3model.audio.bank import SAMPLE_RATE
    from mp3model.audio.decode import decode

    samples = decode(sound).astype(float) / 32768
    angle = 2 * np.pi * _TONE_HZ * np.arange(len(samples)) / SAMPLE_RATE
    amplitude = 2 * abs((samples * np.exp(-1j * angle)).mean()) if len(samples) else 0.0
    return len(samples) / SAMPLE_RATE, float(amplitude) / math.sqrt(2)


def _tone_file(kind: str) -> bytes:
    """Half a second of a tone at 0.4 of full scale, in a format."""
    # Opus, of which this ogg is, knows no 44.1 kHz.
    rate = 48_000 if kind == "ogg" else 44_100
    values = [0.4 * math.sin(2 * math.pi * _TONE_HZ * at / rate) for at in range(int(_TONE_SECONDS * rate))]
    if kind == "wav":
        stream = io.BytesIO()
        with wave.open(stream, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(b"".join(int(32767 * value).to_bytes(2, "little", signed=True) for value in values))
        return stream.getvalue()
    if DECODERS[kind] == "soundfile":
        import soundfile

        stream = io.BytesIO()
        soundfile.write(stream, values, rate, format=kind.upper())
        return stream.getvalue()
    return _encoded_by_ffmpeg(kind, values, rate)


def _encoded_by_ffmpeg(kind: str, values: list[float], rate: int) -> bytes:
    import av
    import numpy as np

    container, coding = {"mp3": ("mp3", "libmp3lame"), "ogg": ("ogg", "libopus"), "m4a": ("ipod", "aac")}[kind]
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as output:
        audio = output.add_stream(coding, rate=rate)
        audio.layout = "mono"
        for start in range(0, len(values), 1024):
            block = np.array([values[start : start + 1024]], np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="flt" if kind == "ogg" else "fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            output.mux(audio.encode(frame))
        output.mux(audio.encode(None))
    return stream.getvalue()


def _extras(extras: Mapping[str, list[str]]) -> Iterator[Finding]:
    for extra, lines in extras.items():
        if extra in _OTHER_EXTRAS:
            continue
        asked = [_parsed(line) for line in lines]
        versions = {requirement.name: _version(requirement.name) for requirement in asked}
        absent = [name for name, version in versions.items() if version is None]
        command = f'pip install "{PACKAGE}[{extra}]"'
        if absent:
            yield Finding("extras", extra, "note", f"without {', '.join(absent)}; where it is wanted: {command}")
            continue
        wrong = [r for r in asked if not r.specifier.contains(str(versions[r.name]), prereleases=True)]
        told = ", ".join(f"{name} {version}" for name, version in versions.items())
        if wrong:
            told = f"{wrong[0].name} is {versions[wrong[0].name]}, {extra} needs {wrong[0].specifier}"
        yield Finding("extras", extra, "fault" if wrong else "ok", told, command if wrong else "")


def _disk() -> Iterator[Finding]:
    """Free space, and whether a file can be written, where runs, temporary files and downloads go."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    elsewhere = "=FOLDER with room, that you may write in"
    places = {
        "runs": (Path.cwd, "start from a folder you may write in, or name another --output_dir"),
        "temporary files": (
            lambda: Path(tempfile.gettempdir()),
            f"export TMPDIR{elsewhere}",
        ),
        "downloads": (
            lambda: Path(os.environ.get("HF_HUB_CACHE") or home).expanduser(),
            f"export HF_HOME{elsewhere}",
        ),
    }
    for name, (find, mend) in places.items():
        try:
            place = find()
            while not place.exists() and place != place.parent:
                place = place.parent
            free = shutil.disk_usage(place).free
            _write_something(place)
        except OSError as error:
            yield Finding("disk", name, "fault", f"cannot be written ({error.strerror or error}): {_shown(find)}", mend)
            continue
        told = f"{free / GIB:.1f} GiB free in {place}"
        full = free < LEAST_FREE
        yield Finding("disk", name, "fault" if full else "ok", told, mend if full else "")


def _shown(find: Callable[[], Path]) -> str:
    try:
        return str(find())
    except OSError:
        return "no such folder"


def _write_something(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as stream:
        stream.write(bytes(1 << 20))
        stream.flush()
        os.fsync(stream.fileno())


def _self_test(found: list[Finding]) -> Iterator[Finding]:
    """A forecast and a step of learning, on every device there is."""
    if _torch() is None:
        yield Finding("self-test", "self-test", "note", "not tried: torch cannot be imported")
        return
    torch = _torch()
    full = {finding.name for finding in found if finding.part == "gpu" and finding.status == "fault"}
    devices = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    for device in (device for device in devices if device not in full):
        for name, attempt in (("forward pass", _forecast), ("step of learning", _learn)):
            began = time.perf_counter()
            try:
                wrong = attempt(device)
            except Exception as error:
                wrong = _first_line(error)
            told = wrong or f"finite, {time.perf_counter() - began:.1f} s"
            mend = "see the packages above" if wrong else ""
            yield Finding("self-test", f"{name} on {device}", "fault" if wrong else "ok", told, mend)


def _forecast(device: str) -> str:
    """Sound → front end → encoder → paths → metrics; what is wrong, or nothing."""
    import numpy as np

    from mp3model.config import MP3Config
    from mp3model.evaluation.accuracy import QUANTILES
    from mp3model.model.modeling_mp3 import MP3Model
    from mp3model.serving.forecaster import Forecaster
    from mp3model.tables.history import STATE_FEATURES

    state = {"date": "2026-01-01", "floor": 1e5, "values": [0.0] * len(STATE_FEATURES)}
    config = MP3Config(regions=["US"], region_states={"US": state}, scales={"US": 1e5}, encoder="ast")
    forecaster = Forecaster(MP3Model(config).to(device).eval())
    sound = 0.1 * np.random.default_rng(0).normal(size=config.samples)
    found = forecaster.forecast((sound, 16_000), ["US"], "2026-01-02", samples=64)
    curves = found.curves[["mean", *QUANTILES]].to_numpy(float)
    totals = found.popularity.query("metric == 'sum'")["mean"].to_numpy(float)
    if not np.isfinite(curves).all() or (curves < 0).any() or not np.isfinite(totals).all():
        return "a forecast is not finite"
    return ""


def _learn(device: str) -> str:
    """A loss, its gradient, a step; what is wrong, or nothing."""
    import torch

    from mp3model.config import MP3Config
    from mp3model.model.modeling import MP2Model
    from mp3model.training.loop import make_optimizer

    generator = torch.Generator().manual_seed(0)
    model = MP2Model(MP3Config(regions=["US"])).to(device)
    optimizer = make_optimizer(model, 1e-3, 0.1, 1.0, fused=device != "cpu")
    waveforms = 0.1 * torch.randn(2, model.config.samples, generator=generator).to(device)
    loss = model(waveforms, targets=torch.ones(2, 1, len(model.config.targets), device=device)).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    after = model(waveforms, targets=torch.ones(2, 1, len(model.config.targets), device=device)).loss
    first, second, length = (float(value.detach()) for value in (loss, after, norm))
    fine = all(map(math.isfinite, (first, second, length))) and length > 0
    return "" if fine else f"loss {first:g}, gradient {length:g}, then {second:g}"
