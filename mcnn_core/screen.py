"""One validated table per screen, one row per field of view.

The readers (``mcnn_core.readers``) all give a `Screen` with the same ``Metadata_*`` columns, so
that no later stage knows where the fields came from.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pandas as pd

from mcnn_core.columns import is_dmso
from mcnn_core.errors import InputError
from mcnn_core.machine.files import read_json, write_json, write_table
from mcnn_core.readers.reading import PLAIN, Reading

#: What every table must name, and what names a field.
REQUIRED = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]

#: What names a row in messages.
NAMING = ("Metadata_Treatment", "Metadata_Plate", "Metadata_Well", "Metadata_Site")

#: What tables call the negative controls where they stand next to mechanisms.
CONTROL = "negative control"

#: What stands where a screen cannot give a number.
NOT_AVAILABLE = "not available"


@dataclass(frozen=True)
class Screen:
    """A screen: its table, its channels and where its images lie.

    Attributes
    ----------
    name : str
    table : DataFrame
        One row per field of view: ``Metadata_Plate``, ``Metadata_Well`` ("B02"),
        ``Metadata_Site``, ``Metadata_Compound`` ("" unknown), ``Metadata_Concentration``
        (micromolar, NaN unknown), ``Metadata_Treatment``, ``Metadata_MoA`` ("" unannotated),
        ``Metadata_Replicate``, ``Metadata_Batch`` ("" unknown), ``Metadata_control_type``
        (negcon, poscon or trt), ``FileName_<channel>``, ``PathName_<channel>`` (relative to
        `root`), then the columns that travel along.
    channels : tuple of str
    root : Path
        Folder that holds every image.
    simulated : bool
    reading : Reading
        How it was read, and its images are to be.
    """

    name: str
    table: pd.DataFrame
    channels: tuple[str, ...]
    root: Path
    simulated: bool
    reading: Reading = PLAIN


def field_names(table: pd.DataFrame) -> list[str]:
    """Name each field for messages: "plate P, well B02, site 1"."""
    return [
        f"plate {plate}, well {well}, site {site}"
        for plate, well, site in zip(*(table[key] for key in REQUIRED), strict=True)
    ]


def row_names(frame: pd.DataFrame) -> list[str]:
    """Name each row for messages by its treatment, plate, well and site, as far as present."""
    rows = frame[[column for column in NAMING if column in frame]].astype(str).to_numpy()
    return [" ".join(filter(None, row)) or f"row {i}" for i, row in enumerate(rows)]


def concentration_key(value: float | str) -> str:
    """Return a concentration as decimal text of six significant digits, without exponent.

    Tables of one screen write one dose differently ("0.300000", 0.3, 0.30000000000000004), so
    doses are compared by this text and never as floats. Missing ("" or NaN) gives "".

    Raises
    ------
    InputError
        If `value` is not a finite number from 0 up.
    """
    if str(value).strip().lower() in ("", "nan"):
        return ""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise InputError(f"concentration {value!r} is not a number of micromolar, 0 or more")
    return format(Decimal(f"{abs(number):.6g}"), "f")


def treatment_key(compound: str, concentration: float | str) -> str:
    """Return the name of a treatment: "compound | 0.3", or "DMSO" at any dose.

    A compound without a concentration is its own treatment; different treatments never share a
    name.
    """
    if is_dmso(compound):
        return "DMSO"
    key = concentration_key(concentration)
    return f"{compound} | {key}" if key or " | " in compound else compound


def in_words(treatment: str) -> str:
    """Return a treatment as figures write it: "taxol 0.3 µM" for "taxol | 0.3"."""
    return f"{treatment} µM".replace(" | ", " ") if " | " in treatment else treatment


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def save_screen(screen: Screen, out: str | os.PathLike) -> None:
    """Write ``fields.parquet`` and ``screen.json`` into the folder `out`.

    Row i of ``fields.parquet`` is row i of the store. Images that lie below `out` are named
    relative to it, so that a copy of the folder reads its own.
    """
    root, home = Path(os.path.realpath(screen.root)), Path(os.path.realpath(out))
    facts = {
        "name": screen.name,
        "simulated": screen.simulated,
        "channels": screen.channels,
        "root": str(root.relative_to(home) if root.is_relative_to(home) else screen.root),
        "n_fields": len(screen.table),
        "reading": screen.reading.as_text(),
    }
    write_table(Path(out) / "fields.parquet", screen.table)
    write_json(Path(out) / "screen.json", facts)


def load_screen(out: str | os.PathLike) -> Screen:
    """Read what `save_screen` wrote."""
    out = Path(out)
    facts, table = read_json(out / "screen.json"), pd.read_parquet(out / "fields.parquet")
    if len(table) != facts["n_fields"]:
        raise InputError(
            f"{out}: expected {facts['n_fields']} rows of fields.parquet as screen.json says, got "
            f"{len(table)}: read the screen again"
        )
    root = Path(os.path.realpath(out)) / facts["root"]
    return Screen(
        facts["name"],
        table,
        tuple(facts["channels"]),
        root,
        facts["simulated"],
        Reading.from_text(**facts["reading"]),
    )


def summary(table: pd.DataFrame) -> dict[str, int]:
    """Count a screen; ``n_annotated`` counts treatments.

    DMSO counts as a compound and a treatment, and is never annotated.
    """
    annotated = table[table["Metadata_MoA"] != ""]
    negative = table[table["Metadata_control_type"] == "negcon"]

    def different(rows: pd.DataFrame, column: str) -> int:
        return rows[f"Metadata_{column}"].replace("", pd.NA).nunique()

    def wells(rows: pd.DataFrame) -> int:
        return len(rows[["Metadata_Plate", "Metadata_Well"]].drop_duplicates())

    return {
        "n_fields": len(table),
        "n_wells": wells(table),
        "n_annotated_fields": len(annotated),
        "n_annotated_wells": wells(annotated),
        "n_negative_wells": wells(negative),
        "n_plates": different(table, "Plate"),
        "n_batches": different(table, "Batch"),
        "n_compounds": different(table, "Compound"),
        "n_treatments": different(table, "Treatment"),
        "n_annotated": different(annotated, "Treatment"),
        "n_annotated_compounds": different(annotated, "Compound"),
        "n_mechanisms": different(annotated, "MoA"),
    }
