"""What several test files share: the shared data folder if there is one, and one small dataset made once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two test processes on two cores must not fight over them, and one thread is what the recipes run with.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def one_thread():
    """Thread counts change the order of sums, and with it the last digits that some tests compare."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_audio() -> Path:
    """Real clips beside the repository; tests that need them are skipped where they are absent."""
    folder = SHARED / "data" / "audio"
    if not folder.is_dir():
        pytest.skip("no real clips beside the repository")
    return folder
