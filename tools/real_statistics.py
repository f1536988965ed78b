"""Measure the real cells that simulated ones are set against.

It writes ``book/recorded/cell_statistics.json``.

    python -m tools.real_statistics DATA

DATA is the folder that holds ``bbbc021/fields`` and ``bbbc021/cells``.
"""

import sys
from pathlib import Path

import numpy as np
import tifffile

from mcnn_book.simulate.bbbc021 import CHANNELS
from mcnn_book.simulate.cells import MICROSCOPE_PIXEL
from mcnn_book.simulate.field_statistics import field_statistics, nucleus_areas
from mcnn_book.workspace import find_root
from mcnn_core.machine.files import write_json

ATTRIBUTION = (
    "Real cells: image set BBBC021v1 (Caie et al., Molecular Cancer Therapeutics 2010), "
    "Broad Bioimage Benchmark Collection (Ljosa et al., Nature Methods 2012), CC BY 4.0."
)


def tiles(fields: np.ndarray, height: int = 128, width: int = 160) -> np.ndarray:
    """Bin full fields 2 x 2 and cut them into fields of the simulated size.

    They are float64 (n, 128, 160, C).
    """
    n, full_height, full_width, channels = fields.shape
    binned = fields.reshape(n, full_height // 2, 2, full_width // 2, 2, channels).mean((2, 4))
    return np.array(
        [
            field[y : y + height, x : x + width]
            for field in binned
            for y in range(0, full_height // 2 - height + 1, height)
            for x in range(0, full_width // 2 - width + 1, width)
        ]
    )


def real_fields(data: Path) -> np.ndarray:
    """Read the two complete real fields of one DMSO well, uint16 (2, 1024, 1280, 3)."""
    folder = Path(data) / "bbbc021" / "fields"
    return np.array(
        [
            np.stack(
                [
                    tifffile.imread(next(folder.glob(f"*_s{site}_w{number}*.tif")))
                    for number in CHANNELS.values()
                ],
                -1,
            )
            for site in (1, 2)
        ]
    )


def real_statistics(data: Path) -> dict:
    """Measure the real fields and the nuclei of the real DMSO crops.

    Fields are measured at full size and as small fields.
    """
    folder = Path(data) / "bbbc021" / "cells"
    index = np.genfromtxt(
        folder / "index.csv",
        delimiter=",",
        names=True,
        dtype=None,
        encoding="utf-8",
        usecols=("Compound",),  # type: ignore[call-overload]  # its types know no names
    )
    crops = np.load(folder / "crops.npz", allow_pickle=False)["crops"][index["Compound"] == "DMSO"]
    largest = [nucleus_areas(crop[..., 0], MICROSCOPE_PIXEL).max(initial=0) for crop in crops]
    fields = real_fields(data)
    return {
        "attribution": ATTRIBUTION,
        "pixel_um": MICROSCOPE_PIXEL,
        "full": field_statistics(fields, MICROSCOPE_PIXEL),
        "small": field_statistics(tiles(fields), 2 * MICROSCOPE_PIXEL),
        "dmso_crops": {
            "n": len(crops),
            "nucleus_area_um2": np.percentile(largest, (25, 50, 75)).round(1).tolist(),
        },
    }


if __name__ == "__main__":
    write_json(
        find_root() / "book" / "recorded" / "cell_statistics.json",
        real_statistics(Path(sys.argv[1])),
    )
