"""The simulated screen: BBBC021's format and counts, determinism, cells like the real ones."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from mcnn_core import simulate
from mcnn_core.simulate import LAYOUTS, hill_response, simulate_screen


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screen") / "tiny"
    simulate_screen(folder, 0, LAYOUTS["tiny"], workers=2, progress=False)
    return folder


def digest(folder: Path) -> str:
    """Hash every file of a folder by name and content."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


def test_bytes_do_not_depend_on_workers_but_on_the_seed(tiny, tmp_path):
    simulate_screen(tmp_path / "one", 0, LAYOUTS["tiny"], workers=1, progress=False)
    simulate_screen(tmp_path / "other", 1, LAYOUTS["tiny"], workers=2, progress=False)
    assert digest(tmp_path / "one") == digest(tiny) != digest(tmp_path / "other")


def test_tiny_is_small_and_has_controls_on_every_plate(tiny):
    table = pd.read_csv(tiny / "BBBC021_v1_image.csv")
    assert len(table) <= 150
    control = table[table["Image_Metadata_Compound"] == "DMSO"]
    assert set(control["Image_Metadata_Plate_DAPI"]) == set(table["Image_Metadata_Plate_DAPI"])
    for row in table.to_dict("records"):
        for channel in ("DAPI", "Tubulin", "Actin"):
            image = tifffile.imread(tiny / row[f"Image_PathName_{channel}"] / row[f"Image_FileName_{channel}"])
            assert image.shape == (128, 160) and image.dtype == np.uint16 and image.std() > 0
