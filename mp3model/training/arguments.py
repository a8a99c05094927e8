"""A recipe's command line and its YAML file in, argument dataclasses out; no torch, so that `--help` is quick."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mp3model.files import InputError


def parse_arguments(kinds: Sequence[Any], argv: Sequence[str], description: str) -> list[Any]:
    """Command line → one instance a dataclass; a first word ending in .yaml names a flat file that the rest overrides.

    Raises:
        InputError: If the file is missing, is no flat mapping, or has a key that no dataclass knows.
    """
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        kinds, description=description, usage="%(prog)s [FILE.yaml] [options]", allow_abbrev=False
    )
    argv = list(argv)
    if argv and argv[0].endswith((".yaml", ".yml")):
        argv = _yaml_words(Path(argv[0]), parser) + argv[1:]
    return list(parser.parse_args_into_dataclasses(argv, look_for_args_file=False))


def _yaml_words(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """A flat YAML file as the words of a command line, so that both go through the same checks."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a flat list of `name: value` lines is needed")
    known = {action.dest for action in parser._actions}
    words: list[str] = []
    for key, value in content.items():
        if key not in known:
            raise InputError(f"{path}: {key} is no option; see --help for those there are")
        if value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f"--{key}", *map(str, values)]
    return words


def arguments_as_dict(*instances: Any) -> dict[str, Any]:
    """All fields of several argument dataclasses in one flat dictionary, as a run folder records them."""
    return {key: value for instance in instances for key, value in dataclasses.asdict(instance).items()}
