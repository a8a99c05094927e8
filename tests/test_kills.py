"""Training, forecasts, banks and tables, killed over and over: what is left can be loaded, what comes of it equal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = os.environ.get("MP3MODEL_KILLS", "24")
# A kill and what goes on after it take a few seconds on a core of one's own.
LONGEST = 600 + 30 * int(KILLS)


@pytest.mark.slow
@pytest.mark.timeout(LONGEST)
def test_after_every_kill_what_is_left_can_be_loaded_and_goes_on_to_the_same_bytes(tmp_path):
    words = [Path(__file__).with_name("kills.py"), "--kills", KILLS, "--folder", tmp_path / "kills"]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    everything = done.stdout.splitlines()[-1].split()
    assert everything[0] == "all"
    assert int(everything[1]) >= int(KILLS)
