"""Tiny screens for tests, and a tiny book.

A screen is a LoadData table with one TIFF per field and channel on disk, or well profiles without
pixels.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from mcnn_book.screens import open_screen
from mcnn_core.errors import InputError
from mcnn_core.machine.files import write_json
from mcnn_core.model import NetworkConfig
from mcnn_core.preprocessing import Conversion, auto_bin, preprocess
from mcnn_core.readers.images import check_headers
from mcnn_core.readers.reading import PLAIN, Reading
from mcnn_core.screen import treatment_key
from mcnn_core.store import Store, identity
from mcnn_core.surrogate import default_columns, surrogate_classes, training_fields

ROOT = Path(__file__).resolve().parents[1]
CHANNELS = ("DNA", "Actin")
#: A network for tests of what is around it.
SMALL = NetworkConfig(
    (4, 4), fusion=8, hidden=16, norm=True, pool_between=True, average=True, dropout=0.2
)
NOTEBOOK = """\
---
jupytext:
  formats: ipynb,md:myst
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# {title}

```{{code-cell}} ipython3
:tags: [parameters]

out = ""
seed = 0
{parameters}
```

{prose}

```{{code-cell}} ipython3
{code}
```
"""


def tiny_rows(
    plates: int = 2,
    wells: tuple[str, ...] = ("B02", "C03"),
    sites: int = 2,
    channels: tuple[str, ...] = CHANNELS,
) -> pd.DataFrame:
    """Return the LoadData rows of a screen whose first well of each plate is DMSO, as text."""
    rows = []
    for plate in range(1, plates + 1):
        for well in wells:
            for site in range(1, sites + 1):
                compound = "DMSO" if well == wells[0] else f"drug {well}"
                row = {
                    "Metadata_Plate": f"P{plate}",
                    "Metadata_Well": well,
                    "Metadata_Site": str(site),
                    "Metadata_Compound": compound,
                    "Metadata_Concentration": "0" if compound == "DMSO" else "0.300",
                    "Metadata_MoA": "" if compound == "DMSO" else "tubulin",
                }
                for channel in channels:
                    row |= {
                        f"FileName_{channel}": f"{well}_s{site}_{channel}.tif",
                        f"PathName_{channel}": f"images/P{plate}",
                    }
                rows.append(row)
    return pd.DataFrame(rows)


def write_screen(
    folder: Path, rows: pd.DataFrame | None = None, shape: tuple[int, int] = (12, 16), seed: int = 0
) -> Path:
    """Write the images of `rows` that do not exist yet and ``screen.csv``; return its path."""
    rows = tiny_rows() if rows is None else rows
    rng = np.random.default_rng(seed)
    for column in [name for name in rows if name.startswith("FileName_")]:
        for where, name in zip(rows[column.replace("File", "Path")], rows[column], strict=True):
            path = folder / where / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, rng.poisson(rng.gamma(2, 200, shape)).astype(np.uint16))
    rows.to_csv(folder / "screen.csv", index=False)
    return folder / "screen.csv"


def write_store(folder: Path, pixels: np.ndarray, block: int = 4) -> Store:
    """Write fields (n, H, W, C) uint8 as the store of one plate, and open it."""
    folder.mkdir(parents=True)
    np.save(folder / "pixels.npy", pixels)
    manifest = {
        "shape": list(pixels.shape),
        "dtype": "uint8",
        "channels": ["DNA", "Actin", "Tubulin"][: pixels.shape[3]],
        "bin": 1,
        "field": list(pixels.shape[1:3]),
        "padding": [0, 0],
        "reference": "plate-percentile",
        "limits": {},
        "blocks": [
            {
                "plate": "P1",
                "first": first,
                "fields": len(part),
                "sha256": hashlib.sha256(part).hexdigest(),
            }
            for first in range(0, len(pixels), block)
            for part in [pixels[first : first + block]]
        ],
    }
    write_json(folder / "store.json", {**manifest, "sha256": identity(manifest)})
    return Store.open(folder)


def stopped(name: str, data: str, out: Path, reading: Reading = PLAIN) -> str:
    """Return by which error the book stops on a screen of the reader's own, "" where it does not.

    The chapters are those that read and group the fields.
    """
    out.mkdir(exist_ok=True)
    try:
        screen = open_screen(name, data, out, reading=reading)
        size = auto_bin(check_headers(screen), len(screen.table))
        preprocess(screen, out / "store", Conversion(bin=size), progress=False)
        surrogate_classes(
            screen.table, default_columns(screen.table), training_fields(screen.table)
        )
    except InputError as error:
        return str(error)
    return ""


def well_table(rows: list[tuple[str, str, float, str, str]], values: np.ndarray) -> pd.DataFrame:
    """Return well profiles.

    They have plate, compound, concentration, mechanism and control type of each row, and its
    features.
    """
    table = pd.DataFrame(
        rows,
        columns=[
            f"Metadata_{name}"
            for name in ("Plate", "Compound", "Concentration", "MoA", "control_type")
        ],
    )
    table["Metadata_Well"] = [
        f"{chr(65 + place // 48)}{place % 48 + 1:02d}"
        for place in table.groupby("Metadata_Plate").cumcount()
    ]
    table["Metadata_Treatment"] = [
        treatment_key(*one)
        for one in zip(table["Metadata_Compound"], table["Metadata_Concentration"], strict=True)
    ]
    features = pd.DataFrame(
        values, columns=[f"MCNN_{number:03d}" for number in range(1, np.shape(values)[1] + 1)]
    )
    return pd.concat([table, features], axis=1)


def small_repository(root: Path, first: str, second: str, intro: str, profiles: str) -> Path:
    """Write a repository with this one's build and return its folder.

    It has two notebooks (each a filled-in `NOTEBOOK`), and the modules that a build needs.
    """
    for folder in (
        "notebooks",
        "mcnn_core/machine",
        "mcnn_core/readers",
        "mcnn_book",
        "book/api",
    ):
        (root / folder).mkdir(parents=True)
    for name in (
        "_config.yml",
        "dodo.py",
        "requirements.txt",
        "requirements.lock",
        "book/api/index.md",
    ):
        shutil.copy(ROOT / name, root / name)
    for folder in ("tools", "book/_ext", "book/_static"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "mcnn_core/__init__",
        "mcnn_core/errors",
        "mcnn_core/machine/__init__",
        "mcnn_core/machine/files",
        "mcnn_core/columns",
        "mcnn_core/screen",
        "mcnn_core/readers/__init__",
        "mcnn_core/readers/reading",
        "mcnn_core/readers/spelling",
        "mcnn_core/readers/tables",
        "mcnn_book/__init__",
        "mcnn_book/__main__",
        "mcnn_book/command",
        "mcnn_book/workspace",
    ):
        shutil.copy(ROOT / f"{name}.py", root / f"{name}.py")
    (root / "book/references.bib").touch()
    for name, text in {
        "book/intro": intro,
        "notebooks/01_first": first,
        "notebooks/02_second": second,
    }.items():
        (root / f"{name}.md").write_text(text, encoding="utf-8")
    (root / "notebooks/profiles.yml").write_text(profiles, encoding="utf-8")
    first_two = [{"file": "notebooks/01_first"}, {"file": "notebooks/02_second"}]
    api = {"file": "book/api/index", "sections": [{"glob": "book/api/mcnn*"}]}
    for name, first_page, chapters in (
        ("_toc.yml", "book/intro", [*first_two, api]),
        ("_toc_report.yml", "notebooks/02_second", first_two[:1]),
        ("_toc_genes.yml", "notebooks/02_second", first_two[:1]),
    ):
        table = {"format": "jb-book", "root": first_page, "chapters": chapters}
        (root / name).write_text(json.dumps(table), encoding="utf-8")
    return root
