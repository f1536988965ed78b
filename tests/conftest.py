"""Shared fixtures.

Real data is never part of the repository; tests that need it skip without it.
"""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real samples, or a skip that says it is absent."""
    folder = Path(os.environ.get("MCNN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"shared data absent: {folder}")
    return folder
