"""The house holds: imports point down, names at the top are the user's, nothing heavy is imported by `--help`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A module may import its own room and any lower floor; on floor 2 three rooms may also import the model.
FLOORS = {
    "mp3model.config": 1,
    "mp3model.files": 1,
    "mp3model.tables": 1,
    "mp3model.audio": 1,
    "mp3model.model": 2,
    "mp3model.training": 2,
    "mp3model.evaluation": 2,
    "mp3model.baselines": 2,
    "data_prep": 2,
    "mp3model.serving": 3,
    "mp3model.benchmark": 4,
    "mp3model.cli": 4,
    "recipes": 4,
}
MAY_IMPORT_THE_MODEL = {"mp3model.training", "mp3model.evaluation", "mp3model.baselines"}
# Baselines give their forecasts in the form that scores read, training calibrates by what evaluation measures and may
# pool a model with boosted trees; evaluation knows neither of them, baselines know nothing of training. The benchmark
# measures all floors below, and is what one recipe runs.
FURTHER = {
    ("mp3model.baselines", "mp3model.evaluation"),
    ("mp3model.training", "mp3model.evaluation"),
    ("mp3model.training", "mp3model.baselines"),
    ("recipes", "mp3model.benchmark"),
}


def room_of(module: str) -> str | None:
    fitting = [room for room in FLOORS if module == room or module.startswith(room + ".")]
    return max(fitting, key=len, default=None)


def imports_of(path: Path) -> set[str]:
    """Every module a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its floor"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def modules() -> list[tuple[str, Path]]:
    paths = [path for top in ("mp3model", "data_prep", "recipes") for path in (ROOT / top).rglob("*.py")]
    return [(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path) for path in paths]


def broken_rules(name: str, imported: set[str]) -> list[str]:
    own = room_of(name)
    if own is None:
        return []
    rooms = {room_of(module) for module in imported} - {own, None}
    bad = []
    for room in sorted(str(room) for room in rooms):
        sideways = FLOORS[room] == FLOORS[own] and not (
            FLOORS[own] == 1 or (own in MAY_IMPORT_THE_MODEL and room == "mp3model.model") or (own, room) in FURTHER
        )
        if FLOORS[room] > FLOORS[own] or sideways or room == "recipes":
            bad.append(f"{name} (floor {FLOORS[own]}) imports {room} (floor {FLOORS[room]})")
    return bad


def test_imports_point_down_or_stay_in_the_room():
    broken = [rule for name, path in modules() for rule in broken_rules(name, imports_of(path))]
    assert broken == []


def test_the_rule_itself_catches_an_upward_and_a_sideways_import():
    assert broken_rules("mp3model.audio.bank", {"mp3model.model.encoder"})
    assert broken_rules("data_prep.charts", {"mp3model.model.encoder"})
    assert broken_rules("mp3model.training.loop", {"data_prep.market"})
    assert not broken_rules("mp3model.training.loop", {"mp3model.model.losses", "mp3model.audio.bank"})


def test_every_module_has_a_room_and_says_what_goes_in_and_out():
    for name, path in modules():
        assert room_of(name) or name == "mp3model", f"{name} has no floor"
        text = path.read_text()
        assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} has no first line"


def test_only_modeling_reads_the_configuration():
    for name, path in modules():
        if room_of(name) == "mp3model.model" and not name.endswith((".modeling", ".modeling_mp3")):
            readers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
            assert not [node for node in readers if isinstance(node.value, ast.Name) and node.value.id == "config"]


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, mp3model; print([name for name in ('torch', 'transformers', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recipes_refuse_to_be_imported():
    for path in (ROOT / "recipes").glob("*.py"):
        code = f"import runpy; runpy.run_path({str(path)!r}, run_name='imported')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "is a script" in done.stderr


def test_the_names_of_the_package_are_there_and_others_are_refused_by_name():
    import mp3model

    assert all(getattr(mp3model, name) for name in mp3model.__all__)
    with pytest.raises(AttributeError, match="Forecasterr"):
        mp3model.Forecasterr  # noqa: B018
