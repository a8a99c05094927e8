"""Every block of the READMEs: Python runs in order, commands and their options exist, the quick ones are run."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from tiny_model import write_model

from mp3model.cli import main

# A draft is checked by MP3MODEL_README=DRAFT pytest tests/test_readme.py.
README = Path(os.environ.get("MP3MODEL_README", ROOT / "README.md"))
FILES = [README, ROOT / "recipes" / "README.md"]
PROGRAMS = ("pip", "accelerate", "python", "mp3model", "torchrun", "pytest", "curl")
QUICK = ("mp3model doctor", "mp3model forecast", "mp3model metrics", "mp3model augment", "mp3model card")


@dataclass(frozen=True)
class Block:
    """What stands between two fences, and the line that it begins on."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    found: list[Block] = []
    lines = path.read_text().splitlines()
    begin = None
    for number, line in enumerate(lines):
        if line.startswith("```"):
            if begin is None:
                begin = number
            else:
                text = "\n".join(lines[begin + 1 : number])
                found.append(Block(lines[begin].removeprefix("```").strip(), text, begin + 1))
                begin = None
    assert begin is None, f"{path}: a block that begins on line {begin} has no end"
    return found


def commands(path: Path) -> list[str]:
    """The commands of all blocks that begin with one; what they print stands in blocks of its own."""
    found = []
    for block in blocks(path):
        first = block.text.strip().split(" ")[0]
        if block.language in ("", "bash", "sh", "console") and first in PROGRAMS:
            whole = re.sub(r"\\\n\s*", " ", block.text)
            # A line that is indented goes on with the one before it.
            whole = re.sub(r"\n\s+", " ", whole)
            lines = [re.sub(r"\s+#.*$", "", line).strip() for line in whole.splitlines()]
            found += [part.strip() for line in lines if line for part in line.split("&&")]
    return found


def options_of(command: str) -> set[str]:
    return set(re.findall(r"(?:(?<=\s)|(?<=\[))(--[a-zA-Z][\w-]*|-[a-zA-Z])(?=[\s\]=]|$)", command))


def asked_for_help(command: str) -> list[str] | None:
    """The words that make a command tell its options; None of a tool of others."""
    words = [word for word in command.replace("[", " ").replace("]", " ").split() if word]
    if words[0] == "mp3model":
        return ["-m", "mp3model.cli", words[1], "--help"]
    if words[0] == "python" and words[1] == "-m" and words[2].startswith("data_prep"):
        # Each dataset of open_datasets is a command of its own.
        own = words[3:4] if words[2] == "data_prep.open_datasets" else []
        return ["-m", words[2], *own, "--help"]
    script = next((word for word in words if word.startswith(("recipes/", "tests/")) and word.endswith(".py")), None)
    if script is not None:
        assert (ROOT / script).is_file(), f"{command}: there is no {script}"
        return [script, "--help"]
    return None


@functools.cache
def help_of(words: tuple[str, ...]) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, cwd=ROOT, timeout=250)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-500:]}"
    return done.stdout


def checked(command: str) -> None:
    """Holds a command's options against what its --help lists; those before a recipe are the launcher's."""
    words = asked_for_help(command)
    if words is None:
        return
    own = command[command.index(words[0]) :] if words[0].startswith(("recipes/", "tests/")) else command
    known = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", help_of(tuple(words))))
    missing = sorted(options_of(own) - known - {"-m"})
    assert not missing, f"{command}: {' '.join(words[:-1])} has no {', '.join(missing)}"


def is_light(command: str) -> bool:
    return command.startswith(("mp3model", "python -m data_prep"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_option_of_the_command_line_and_of_data_prep_exists(path):
    for command in filter(is_light, commands(path)):
        checked(command)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_option_of_a_recipe_exists(path):
    for command in commands(path):
        if not is_light(command):
            checked(command)


def test_the_check_itself_finds_an_option_that_is_not_there():
    with pytest.raises(AssertionError, match="has no --regionn"):
        checked("mp3model forecast song.mp3 --model M --regionn US")
    with pytest.raises(AssertionError, match=r"there is no recipes/mp4\.py"):
        checked("accelerate launch recipes/mp4.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_files_that_are_named_exist(path):
    text = path.read_text()
    named = set(re.findall(r"(?<![\w/])recipes/(?:configs/|examples/)?[\w-]+\.(?:py|yaml)", text))
    if path == README:
        links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) + re.findall(r'src="([^"]+)"', text)
        named |= {link for link in links if not link.startswith("http")}
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert missing == []


def test_the_readme_has_commands_and_python():
    found = commands(README)
    assert "pip install -e ." in found
    assert "accelerate launch recipes/mp2.py" in found
    assert any(command.startswith("mp3model forecast") for command in found)
    assert [block for block in blocks(README) if block.language == "python"]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory) -> Path:
    """A folder with a song and tiny models where the README has trained ones."""
    import json

    import pandas as pd
    import soundfile
    import torch

    from mp3model.config import MP3Config
    from mp3model.model.modeling import MP2Model

    folder = tmp_path_factory.mktemp("newcomer")
    runs = {named for path in FILES[:1] for named in re.findall(r"runs/[\w.-]+(?=/model)", path.read_text())}
    for run in sorted(runs):
        if "mp2" in run:
            torch.manual_seed(0)
            # Clips of the length that the README's own example has.
            regions = ["BR", "GB", "JP", "US"]
            told = {name: {region: [6.5, 0.6] for region in regions} for name in ("total", "debut_rank", "charted")}
            small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
            config = MP3Config(regions=regions, charted=True, target_statistics=told, **small)
            MP2Model(config).save_pretrained(folder / run / "model")
        else:
            write_model(folder / run / "model")
            score = {"crps_logfloor": 0.3, "n_rows": 9, "n_artists": 3}
            (folder / run / "report.json").write_text(json.dumps({"test": {"total": score}}))
    waveform = 0.2 * np.sin(2 * np.pi * 220 * np.arange(6 * 16_000) / 16_000)
    soundfile.write(folder / "song.mp3", waveform, 16_000, format="MP3")
    weeks = pd.DataFrame({"region": ["US", "US"], "week": [0, 1], "streams": [3e6, 2e6]})
    weeks.to_csv(folder / "weeks.csv", index=False)
    return folder


@pytest.mark.slow
def test_python_blocks_run_one_after_the_other(newcomer, monkeypatch):
    monkeypatch.chdir(newcomer)
    namespace: dict = {"__name__": "readme"}
    for block in blocks(README):
        if block.language == "python":
            exec(compile(block.text, f"{README.name}:{block.line}", "exec"), namespace)
    assert len(namespace["forecast"].popularity.query("metric == 'sum'")) == 2
    assert namespace["log10_total"].shape == namespace["debut_rank"].shape == (2, 2)


@pytest.mark.slow
def test_quick_commands_run_one_after_the_other(newcomer, monkeypatch, capsys):
    monkeypatch.chdir(newcomer)
    ran = 0
    for command in commands(README):
        # The model of own songs is learnt, and asked, in test_own_songs.
        known = command.startswith(QUICK) and not re.search(r"\b(?:RUN|DIR|FILE|FOLDER|mine)\b|…|\.\.\.", command)
        if known:
            assert main(shlex.split(command)[1:]) == 0, command
            ran += 1
    assert ran >= 3
    assert (newcomer / "song.csv").is_file()
    assert (newcomer / "song.png").is_file()
    assert "error" not in capsys.readouterr().err
