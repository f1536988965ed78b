"""Lay the real single-cell crops of BBBC021 out as a screen that `SCREEN=PATH.csv` reads.

    python tests/real_cells.py --data SHARED_DATA --out DIR
    make book SCREEN=DIR/screen.csv

writes ``DIR/screen.csv`` (CellProfiler LoadData) and ``DIR/images/*.tif`` (uint16, one per
channel).

Choices
-------
One crop is one field of view, numbered within its well in the order of the index: eight treatments
have two or three crops, too few to make mosaics of them and keep two fields per surrogate class.
A field is the central 64 x 64 of the 68 x 68 pixels. The nucleus sits in the centre, and 64 is
divisible by 32, so five scales need no padding; 68 would be padded to 96, and half of every stored
field would be mirror image.

All 1,996 crops are kept. Taxol at 0.3 uM outside the dose series (week 1, D05) is the plates'
positive control: 702 crops, marked ``poscon`` as DMSO is marked ``negcon``. Without them 28 of 55
plates would be normalised by fewer than 16 cells, two by none. What follows is free to leave
``poscon`` rows out of training and profiles, as Ljosa et al. (2013) did; 103 treatments remain.

No crop occurs twice. Forty-six pairs share some pixels, each pair within one field of the
microscope and so within one treatment, which never compares a query with itself.

Source: BBBC021v1 (Caie et al. 2010; Ljosa et al. 2012), Broad Bioimage Benchmark Collection,
cut into single cells by mikkelnrasmussen/deep_learning_project (MIT).
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from mcnn_book.command import reporting
from mcnn_core.errors import InputError
from mcnn_core.machine.files import atomic

CHANNELS = ("DAPI", "Actin", "Tubulin")
SIDE = 64
MARGIN = 2


def read_crops(data: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the crops, (n, 68, 68, 3) uint16, and their index; row i describes crop i.

    Raises
    ------
    InputError
        If the two differ in length or a crop occurs twice.
    """
    folder = data / "bbbc021" / "cells"
    with np.load(folder / "crops.npz") as archive:
        crops = archive["crops"]
    index = pd.read_csv(folder / "index.csv", dtype=str, keep_default_na=False)
    if len(crops) != len(index):
        raise InputError(f"{folder}: {len(crops)} crops for {len(index)} rows of index.csv")
    hashes = pd.Series([crop.tobytes() for crop in crops])
    twice = index["md5"].duplicated(keep=False) | hashes.duplicated(keep=False).to_numpy()
    if twice.any():
        raise InputError(
            f"{folder}: crops must differ", [f"row {row}" for row in index.index[twice]]
        )
    return crops, index


def table(index: pd.DataFrame) -> pd.DataFrame:
    """Return the LoadData table of `index`: row i is crop i."""
    well = index["Plate"] + "_" + index["Well"]
    site = index.groupby(["Plate", "Well"]).cumcount() + 1
    week = index["Plate"].str.partition("_")[0]
    dmso = index["Compound"] == "DMSO"
    standard = (index["Compound"] == "taxol") & (index["Concentration"].astype(float) == 0.3)
    series = (week == "Week1") & (index["Well"] == "D05")
    columns = {
        "Metadata_Plate": index["Plate"],
        "Metadata_Well": index["Well"],
        "Metadata_Site": site,
        "Metadata_Compound": index["Compound"],
        "Metadata_Concentration": index["Concentration"],
        "Metadata_MoA": index["moa"].mask(dmso, ""),
        "Metadata_Replicate": index["Replicate"],
        "Metadata_Batch": week,
        "Metadata_control_type": np.select([dmso, standard & ~series], ["negcon", "poscon"], "trt"),
        "Metadata_Crop": np.arange(len(index)),
        "Metadata_Microscope_Field": index["stem"].str.extract(r"_s(\d)_")[0],
        "Metadata_Cell": index["cell"],
    }
    stem = well + "_" + site.map("{:02d}".format)
    for channel in CHANNELS:
        columns |= {
            f"FileName_{channel}": stem + f"_{channel}.tif",
            f"PathName_{channel}": "images",
        }
    return pd.DataFrame(columns)


def lay_out(data: str | Path, out: str | Path, rows: slice = slice(None)) -> Path:
    """Write the crops of `rows` (all by default) as a screen and return the path of its table.

    Parameters
    ----------
    data : path
        The folder that holds ``bbbc021/cells``.
    out : path
        A folder that is not there yet; it appears complete or not at all.
    rows : slice
        Crops to write, for tests.

    Raises
    ------
    InputError
        If `out` exists, or the crops and their index do not fit.
    """
    out = Path(out)
    if os.path.lexists(out):
        raise InputError(f"{out} is there already: name a new folder")
    crops, index = read_crops(Path(data))
    fields = table(index)[rows]
    with atomic(out, "screen of single cells") as folder:
        (folder / "images").mkdir(parents=True)
        for crop, *names in fields[
            ["Metadata_Crop", *(f"FileName_{c}" for c in CHANNELS)]
        ].itertuples(index=False):
            field = crops[crop, MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE]
            for number, name in enumerate(names):
                tifffile.imwrite(folder / "images" / name, field[..., number])
        fields.to_csv(folder / "screen.csv", index=False)
    return out / "screen.csv"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds bbbc021/cells")
    parser.add_argument("--out", type=Path, required=True, help="new folder to write")
    arguments = parser.parse_args()
    with reporting():
        print(lay_out(arguments.data, arguments.out))
