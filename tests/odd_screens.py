"""Small screens of every kind that `SCREEN=PATH.csv` must take as it is, and what each lacks.

    python tests/odd_screens.py --out DIR [NAME ...]
    make book SCREEN=DIR/NAME/NAME.csv PROFILE=tiny

`SCREENS` are drawn; `REAL` are laid out from the folder of real samples (``--data``), which is
never part of the repository. Cells are blobs whose size and texture depend on the treatment: enough
for a network to find something, and no more.
"""

import argparse
import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

#: Names that must travel through tables, figures and pages as they are, and do nothing there.
HOSTILE = (
    "<script>alert(1)</script>",
    "../../etc",
    "=cmd()",
    "$x_{2$ and $\\frac",
    "nai\u0308ve_e\u0301",
    "\u05d0\u05d1\u05d2 \u202eabc\u202c",
    "a | b; 'c' \"d\" %s {x} `y`",
    "long " + "x" * 300,
)
#: Mechanisms named like columns of the tables that hold them.
COLUMNS = ("well", "treatment", "nearest", "DMSO")


def draw(rng: np.random.Generator, shape: tuple[int, int], channels: int, kind: int) -> np.ndarray:
    """Return a field of blobs, (C, H, W) uint16.

    `kind` decides how large and how striped they are.
    """
    field = np.full((channels, *shape), 120, np.float32)
    radius, stripe = 4 + kind % 4 * 2, 2 + kind % 5
    for _ in range(max(3, shape[0] * shape[1] // 1500)):
        centre = [rng.uniform(0, side) for side in shape]
        part = tuple(slice(max(0, int(at) - 4 * radius), int(at) + 4 * radius) for at in centre)
        y, x = (
            np.arange(side, dtype=np.float32)[one] for side, one in zip(shape, part, strict=True)
        )
        (cy, cx), y = centre, y[:, None]
        cell = np.exp(-((y - cy) ** 2 + (x - cx) ** 2 * (1 + kind % 3)) / (2 * radius**2))
        for c in range(channels):
            field[c][part] += (
                900 * cell * (1 + 0.5 * np.sin((x + c * y) / stripe) * (c > 0)) / (1 + 0.2 * c)
            )
    return rng.poisson(field).astype(np.uint16)


def layout(plates: Sequence[str], wells: Sequence[str], sites: int = 1) -> pd.DataFrame:
    """Return the three required columns of a screen, one row per field."""
    return pd.DataFrame(
        list(itertools.product(plates, wells, range(1, sites + 1))),
        columns=["Metadata_Plate", "Metadata_Well", "Metadata_Site"],
    )


def grid(rows: str, columns: Sequence[int]) -> list[str]:
    """Return well names such as B02, row by row."""
    return [f"{row}{column:02d}" for row in rows for column in columns]


def write(
    folder: Path,
    table: pd.DataFrame,
    channels: Sequence[str],
    shape: tuple[int, int],
    kinds: Sequence[int],
    suffix: str = "tif",
) -> Path:
    """Draw the fields of `table`, one file per channel, and write the table; return its path.

    It is ``<folder's name>.csv``.
    """
    rng, columns = np.random.default_rng(0), {}
    for channel in channels:
        columns |= {
            f"FileName_{channel}": [f"f{row:04d}_{channel}.{suffix}" for row in range(len(table))],
            f"PathName_{channel}": "images",
        }
    (folder / "images").mkdir(parents=True)
    for row, kind in enumerate(kinds):
        field = draw(rng, shape, len(channels), kind)
        for channel, image in zip(channels, field, strict=True):
            path = folder / "images" / columns[f"FileName_{channel}"][row]
            if suffix == "tif":
                tifffile.imwrite(path, image)
            elif suffix == "tiff":
                # Differences of neighbours are packed.
                Image.fromarray(image).save(path, compression="tiff_lzw", tiffinfo={317: 2})
            else:
                Image.fromarray((image // 8).clip(0, 255).astype(np.uint8)).save(
                    path, "JPEG" if suffix in ("jpg", "jpeg") else "PNG"
                )
    path = folder / f"{folder.name}.csv"
    pd.concat([table, pd.DataFrame(columns, index=table.index)], axis=1).to_csv(path, index=False)
    return path


def _codes(values: pd.Series) -> np.ndarray:
    return pd.factorize(values)[0]


def bare(folder: Path) -> Path:
    """Two channels, 96 wells, nothing but plate, well and site."""
    table = layout(["plate A", "plate B"], grid("BC", range(2, 6)), sites=2)
    return write(folder, table, ("DNA", "ER"), (96, 120), _codes(table["Metadata_Well"]))


def doses(folder: Path) -> Path:
    """Draw five channels, 384 wells and odd sides.

    TIFFs packed by LZW, one field per well, controls and doses, no mechanisms.
    """
    wells = grid("CDEF", range(3, 9))
    table = layout(["0012", "0013", "0014"], wells)
    place = table["Metadata_Well"].map(wells.index)
    table["Metadata_Compound"] = np.where(
        place % 6 == 0, "solvent", "cpd-" + (place % 6).astype(str)
    )
    table["Metadata_Concentration"] = np.where(
        place % 6 == 0, "", np.array(["0.1", "1", "10", "30"])[place // 6]
    )
    table["Metadata_control_type"] = np.where(place % 6 == 0, "negcon", "trt")
    return write(
        folder,
        table,
        ("DNA", "ER", "RNA", "AGP", "Mito"),
        (106, 171),
        np.where(place % 6 == 0, 0, place % 6 + place // 12),
        "tiff",
    )


def jpegs(folder: Path) -> Path:
    """One channel, 8-bit JPEG, one plate, wells only."""
    table = layout(["1"], grid("AB", range(1, 5)), sites=3)
    return write(folder, table, ("Brightfield",), (128, 128), _codes(table["Metadata_Well"]), "jpg")


def one_batch(folder: Path) -> Path:
    """Three channels, mechanisms but one batch, no doses, a control on one plate alone."""
    wells = grid("BC", range(2, 6))
    table = layout(["June 1", "June 2"], wells)
    place = table["Metadata_Well"].map(wells.index)
    table["Metadata_Compound"] = np.where(
        (place == 0) & (table["Metadata_Plate"] == "June 1"),
        "water",
        "sirtinol " + place.astype(str),
    )
    table["Metadata_MoA"] = np.array(["", "HDAC", "HDAC", "Eg5", "Eg5", "Eg5", "", ""])[place]
    table["Metadata_control_type"] = np.where(
        table["Metadata_Compound"] == "water", "negcon", "trt"
    )
    table["Metadata_Batch"] = "June"
    table = table[(place > 0) | (table["Metadata_Plate"] == "June 1")]
    table = pd.concat([table, table.assign(Metadata_Site=2)], ignore_index=True)
    return write(
        folder,
        table,
        ("DNA", "Actin", "Golgi"),
        (108, 108),
        _codes(table["Metadata_MoA"] + table["Metadata_Compound"].str[-1]),
    )


def many_wells(folder: Path) -> Path:
    """Sixteen fields, 1,536-well names, one field per well, four treatments without dose."""
    wells = [f"{row}{column:02d}" for row in ("A", "Z", "AA", "AF") for column in (1, 24, 47, 48)]
    table = layout(["1536-7"], wells)
    table["Metadata_Compound"] = "siRNA " + (np.arange(16) % 4 + 1).astype(str)
    return write(folder, table, ("Hoechst", "GFP"), (64, 96), np.arange(16) % 4)


def hostile(folder: Path) -> Path:
    """Draw names that would do harm, or that tables use themselves.

    Compounds, mechanisms, plates and a channel have them.
    """
    wells = grid("BC", range(2, 11))
    table = layout(["<b>plate & 1</b>", "plate $_2"], wells)
    place = table["Metadata_Well"].map(wells.index)
    compounds = np.array(["DMSO", "DMSO", *np.repeat(HOSTILE, 2)])
    table["Metadata_Compound"] = compounds[place]
    table["Metadata_Concentration"] = np.where(place < 2, 0, 1 + 9 * (place % 2))
    table["Metadata_MoA"] = np.where(place < 2, "", np.array(COLUMNS)[(place // 2 - 1).clip(0) % 4])
    table["Metadata_Batch"] = np.where(table["Metadata_Plate"].str.contains("1"), "<i>a</i>", "b;c")
    return write(folder, table, ("DNA", "Actin $x<y>"), (64, 64), place)


SCREENS: dict[str, Callable[[Path], Path]] = {
    one.__name__: one for one in (bare, doses, jpegs, one_batch, many_wells, hostile)
}


def two_fields(folder: Path, data: Path) -> Path:
    """Lay out the two complete real fields of BBBC021, 1024 x 1280, and tiles of them.

    Eight fields in all, plate, well and site alone.
    """
    stems = {
        site: {
            int(path.name.split("_w")[1][0]): path
            for path in sorted((data / "bbbc021" / "fields").glob(f"*_B02_s{site}_w*.tif"))
        }
        for site in (1, 2)
    }
    (folder / "images").mkdir(parents=True)
    rows = []
    # The second field stands for another well: a lone well is one class.
    for well, (site, files) in zip(("B02", "B03"), stems.items(), strict=True):
        for number, (top, left) in enumerate(itertools.product((0, 512), (0, 640)), 1):
            row = {
                "Metadata_Plate": "Week2_24381",
                "Metadata_Well": well,
                "Metadata_Site": number,
                "Metadata_Tile": f"{top}:{top + 512},{left}:{left + 640}",
            }
            for channel, wheel in (("DAPI", 1), ("Tubulin", 2), ("Actin", 4)):
                name = f"s{site}_{channel}.tif"
                shutil.copyfile(files[wheel], folder / "images" / name)
                row |= {f"FileName_{channel}": name, f"PathName_{channel}": "images"}
            rows.append(row)
    path = folder / f"{folder.name}.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def kimorph_wells(folder: Path, data: Path) -> Path:
    """Lay out the twelve real wells of KiMorph.

    JPEG, two fields in each file, siRNAs without dose, RLUC the negative control.
    """
    source, rows = data / "kimorph", []
    plate = pd.read_csv(
        source / "conf" / "annotation.txt", sep="\t", dtype=str, keep_default_na=False
    ).set_index("Well")
    shutil.copytree(source / "images", folder / "images")
    for well in sorted((folder / "images").glob("*/Well-*")):
        name = f"{well.name[5]}{int(well.name[6:]):02d}"
        content, gene = plate.loc[name, ["Content", "GeneID"]]
        for site in (1, 2):
            row = {
                "Metadata_Plate": well.parent.name,
                "Metadata_Well": name,
                "Metadata_Site": site,
                "Metadata_Tile": f"0:510,{512 * site - 512}:{512 * site}",
                "Metadata_Compound": gene if gene not in ("", "NA") else content,
                "Metadata_control_type": "negcon" if content.lower() == "rluc" else "trt",
            }
            for channel in ("Hoechst", "Tritc", "FITC"):
                row |= {
                    f"FileName_{channel}": f"{channel}.jpeg",
                    f"PathName_{channel}": f"images/{well.parent.name}/{well.name}",
                }
            rows.append(row)
    path = folder / f"{folder.name}.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def crop_fields(folder: Path, data: Path, most: int = 200) -> Path:
    """Lay out fields of 136 x 136 made of four real cells of one well each.

    With doses, mechanisms and weeks; the first `most` that have a class.
    """
    with np.load(data / "bbbc021" / "cells" / "crops.npz") as archive:
        crops = archive["crops"]
    index = pd.read_csv(data / "bbbc021" / "cells" / "index.csv", dtype=str, keep_default_na=False)
    fields = (
        index.assign(crop=np.arange(len(index)))
        .groupby(["Plate", "Well"])["crop"]
        .apply(lambda rows: rows.tolist())
    )
    fields = [
        (plate, well, n // 4 + 1, rows[n : n + 4])
        for (plate, well), rows in fields.items()
        for n in range(0, len(rows) - 3, 4)
    ]
    facts = index.iloc[[rows[0] for *_, rows in fields]].reset_index(drop=True)
    treatment = facts["Compound"] + facts["Concentration"]
    kept = treatment.groupby(treatment).transform("size") > 1
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in np.flatnonzero(kept)[:most]:
        plate, well, site, cells = fields[number]
        fact, four = facts.iloc[number], crops[cells].transpose(0, 3, 1, 2)
        image = np.concatenate(
            [np.concatenate(four[:2], axis=-1), np.concatenate(four[2:], axis=-1)], axis=-2
        )
        row = {
            "Metadata_Plate": plate,
            "Metadata_Well": well,
            "Metadata_Site": site,
            "Metadata_Compound": fact["Compound"],
            "Metadata_Concentration": fact["Concentration"],
            "Metadata_MoA": fact["moa"] if fact["Compound"] != "DMSO" else "",
            "Metadata_Batch": plate.split("_")[0],
        }
        for channel, pixels in zip(("DAPI", "actin", "tubulin"), image, strict=True):
            row |= {
                f"FileName_{channel}": f"{number:04d}_{channel}.tif",
                f"PathName_{channel}": "images",
            }
            tifffile.imwrite(folder / "images" / row[f"FileName_{channel}"], pixels)
        rows.append(row)
    table = pd.DataFrame(rows)
    sizes = table.groupby(["Metadata_Compound", "Metadata_Concentration"])[
        "Metadata_Site"
    ].transform("size")
    path = folder / f"{folder.name}.csv"
    table[sizes > 1].to_csv(path, index=False)
    return path


REAL: dict[str, Callable[[Path, Path], Path]] = {
    one.__name__: one for one in (two_fields, kimorph_wells, crop_fields)
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder that receives a folder per screen"
    )
    parser.add_argument("--data", type=Path, help="folder of real samples, for the real ones")
    parser.add_argument(
        "names",
        nargs="*",
        default=list(SCREENS),
        metavar="NAME",
        help=f"of {', '.join([*SCREENS, *REAL])}",
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        print(
            REAL[name](arguments.out / name, arguments.data)
            if name in REAL
            else SCREENS[name](arguments.out / name)
        )
