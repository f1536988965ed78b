"""The cells of a table that describes fields or wells: read, tidied, checked and typed.

Every reader of such a table takes these steps, whether its rows name images or features.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from mcnn_core.columns import is_dmso, joint_codes, mapped
from mcnn_core.errors import SHOWN, InputError, Problem, count
from mcnn_core.readers.spelling import (
    A_DOSE,
    control_type,
    is_control,
    is_dose,
    like_a_control,
    micromolar,
    note,
    number,
    read_as,
    vehicle,
    well,
)
from mcnn_core.readers.tables import listed, read_cells
from mcnn_core.screen import CONTROL, REQUIRED, concentration_key, repeated, treatment_key

#: Columns every table has, with what stands in where a LoadData file lacks one.
DEFAULTS = {
    "Metadata_Compound": "",
    "Metadata_Concentration": "",
    "Metadata_MoA": "",
    "Metadata_Replicate": "1",
    "Metadata_Batch": "",
    "Metadata_control_type": "",
}

CONTROL_TYPES = ("negcon", "poscon", "trt")

# What to check: for a column and the code of a problem, the cells, which of them are wrong, and
# what is said after such a cell.
Rules = dict[tuple[str, str], tuple[pd.Series, pd.Series, str | pd.Series]]

#: What names a field, as one column.
FIELD = "plate, well and site"

A_COUNT = "is not a whole number, 0 or more"

#: What begins the names of columns, in any case, with or without ``Image_`` before it.
PREFIX = re.compile(r"^(?:Image_)?(FileName|PathName|URL|Frame|Metadata)_", re.IGNORECASE)
PREFIXES = {name.lower(): name for name in ("FileName", "PathName", "URL", "Frame", "Metadata")}


def is_count(text: pd.Series) -> pd.Series:
    """Whether each text is a whole number, 0 or more."""
    return text.str.fullmatch(r"\s*[0-9]{1,15}(\.0*)?\s*")


def treatments_of(compounds: pd.Series, doses: pd.Series) -> pd.Series:
    """Return the treatment of each row, "" where its dose is not a number."""
    codes, first = joint_codes(compounds, doses)
    few = doses.iloc[first]
    names = [
        treatment_key(compound.strip(), dose) if ok else ""
        for compound, dose, ok in zip(compounds.iloc[first], few, is_dose(few), strict=True)
    ]
    return pd.Series(names, dtype=str).take(codes).set_axis(compounds.index)


def read_rows(
    path: Path, numeric: Callable[[str], bool] = lambda name: False
) -> tuple[pd.DataFrame, list[Problem]]:
    """Read any table as `read_cells` does, each column once; a leading ``Image_`` goes."""
    rows, problems = read_cells(path, numeric)
    names = [
        PREFIX.sub(lambda found: f"{PREFIXES[found[1].lower()]}_", name) for name in rows.columns
    ]
    problems += [
        Problem(
            f"{path}, line 1: column {name!r} occurs twice, with or without Image_ before it",
            "column-twice",
            str(path),
            1,
            name,
        )
        for name in repeated(names)
    ]
    return rows.set_axis(names, axis=1).loc[:, ~pd.Index(names).duplicated()], problems


def read_strictly(path: Path) -> pd.DataFrame:
    """Read a table as `read_rows` does; refuse a repeated column and a line of other length."""
    rows, problems = read_rows(path)
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise InputError(
            f"{path}: expected each column once, and as many cells in every line as in the header",
            errors,
        )
    return rows


def filled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with every column; text stands in for those that the file lacks."""
    places = dict(zip(REQUIRED, ("not named", "A01", rows.index.astype(str)), strict=True))
    return rows.assign(
        **{name: value for name, value in (DEFAULTS | places).items() if name not in rows}
    )


def tidied(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the known columns in their order, tidied but still text; a well may be ""."""
    control = mapped(rows["Metadata_control_type"], control_type)
    compound = mapped(rows["Metadata_Compound"], vehicle)
    compound = compound.where(
        ~control.isin(["poscon", "trt"]), rows["Metadata_Compound"].str.strip()
    )
    dmso = mapped(compound, is_dmso, bool)
    by_compound = (control == "") | mapped(control, is_control, bool) & dmso
    by_compound |= control.str.lower().isin(["false", "no"])
    control = control.mask(by_compound, dmso.map({True: "negcon", False: "trt"}))
    dose = mapped(rows["Metadata_Concentration"], micromolar)
    dose = dose.mask(dmso & dose.str.fullmatch(r"\s*[0-9.,]+ ?%\s*(\(?v/v\)?)?\s*"), "")
    facts = {
        "Plate": rows["Metadata_Plate"].str.strip(),
        "Well": mapped(rows["Metadata_Well"], well),
        "Site": mapped(rows["Metadata_Site"], number),
        "Compound": compound,
        "Concentration": dose,
        "Treatment": treatments_of(compound, dose),
        "MoA": rows["Metadata_MoA"].str.strip().where(control != "negcon", ""),
        "Replicate": mapped(rows["Metadata_Replicate"], number),
        "Batch": rows["Metadata_Batch"].str.strip(),
        "control_type": control,
    }
    return pd.DataFrame(facts, index=rows.index).add_prefix("Metadata_")


def field_of(facts: pd.DataFrame) -> pd.Series:
    """Return the name of each row's field, "" where the row does not say it."""
    plate, place, site = (facts[name] for name in REQUIRED)
    whole = (plate != "") & (place != "") & is_count(site)
    return (plate + " " + place + " site " + site).where(whole, "")


def cell_rules(rows: pd.DataFrame, facts: pd.DataFrame) -> Rules:
    """Return what is checked of all cells but those that name files."""
    plate, place, site, compound, dose, treatment, moa, replicate, _, control = (
        facts[name] for name in facts
    )
    mechanisms = moa[(moa != "") & (treatment != "")].groupby(treatment).nunique()
    several = treatment.isin(mechanisms.index[mechanisms > 1])
    field = field_of(facts)
    cells = rows.assign(Metadata_control_type=control, **{FIELD: field})
    masks = {
        ("Metadata_Plate", "cell-empty"): (plate == "", "is empty"),
        ("Metadata_Site", "not-a-count"): (~is_count(site), A_COUNT),
        ("Metadata_Replicate", "not-a-count"): (~is_count(replicate), A_COUNT),
        ("Metadata_Concentration", "not-a-dose"): (~is_dose(dose), A_DOSE),
        ("Metadata_Well", "not-a-well"): (
            place == "",
            "is not a well: expected a row letter and a column number, as in B02",
        ),
        (FIELD, "field-twice"): (
            (field != "") & field.duplicated(keep=False),
            "occurs more than once",
        ),
        ("Metadata_control_type", "control-type-unknown"): (
            ~control.isin(CONTROL_TYPES),
            f"is not one of {', '.join(CONTROL_TYPES)}",
        ),
        ("Metadata_MoA", "mechanism-without-compound"): (
            (moa != "") & (compound == ""),
            "has no compound: name it in Metadata_Compound",
        ),
        ("Metadata_MoA", "mechanism-ambiguous"): (
            (moa != "") & several,
            "is one of several for this treatment",
        ),
        ("Metadata_MoA", "mechanism-reserved"): (
            moa.str.lower() == CONTROL,
            "is not a mechanism: mark such wells negcon in Metadata_control_type",
        ),
    }
    return {key: (cells[key[0]], mask, what) for key, (mask, what) in masks.items()}


def wrong_cells(path: Path, rules: Rules) -> tuple[list[Problem], np.ndarray]:
    """Name every cell that is wrong by `rules`, by line and then in their order.

    Return also which rows are wrong.
    """
    problems: list[Problem] = []
    wrong = np.zeros(len(next(iter(rules.values()))[0]), bool)
    for (column, code), (cells, mask, what) in rules.items():
        bad = mask.to_numpy(bool)
        wrong |= bad

        def say(index: int, cells: pd.Series = cells, what: str | pd.Series = what) -> str:
            return f"{str(cells[index])!r} {what if isinstance(what, str) else what[index]}"

        problems += listed(path, code, cells.index[bad], say, column)
    return sorted(problems, key=lambda problem: problem.row or 0), wrong


def read_otherwise(path: Path, rows: pd.DataFrame, facts: pd.DataFrame) -> list[Problem]:
    """Return a note per column whose cells were read as something else than they say.

    A warning names what looks like a control and counts as a treatment.
    """
    problems: list[Problem] = []
    for name in ("Well", "Site", "Compound", "Concentration", "Replicate"):
        column = f"Metadata_{name}"
        problems += read_as(path, column, rows[column], facts[column])
    written = rows["Metadata_control_type"]
    named = written.str.strip() != ""
    column = "Metadata_control_type"
    problems += read_as(path, column, written[named], facts.loc[named, column])
    treated = (facts[column] == "trt") & ~named
    compounds = facts.loc[treated, "Metadata_Compound"]
    for compound, cells in compounds.groupby(compounds):
        if like_a_control(str(compound)):
            text = f"compound {compound!r} looks like a control and counts as a treatment"
            line = int(cells.index[0]) + 1
            problems.append(note(path, text, "control-likely", column, "warning", line))
    return problems


def typed(
    rows: pd.DataFrame, facts: pd.DataFrame, files: pd.DataFrame, inside: str
) -> pd.DataFrame:
    """Return the table of a screen from rows without problems; its paths begin below `inside`."""
    dmso = mapped(facts["Metadata_Compound"], is_dmso, bool)
    dose = pd.to_numeric(mapped(facts["Metadata_Concentration"], concentration_key))
    table = facts.assign(
        Metadata_Site=mapped(facts["Metadata_Site"], int, "int64"),
        Metadata_Concentration=dose.mask(dmso & dose.isna(), 0.0),
        Metadata_Replicate=mapped(
            facts["Metadata_Replicate"], lambda text: int(float(text)), "int64"
        ),
        **{
            f"{part}Name_{channel}": mapped(
                files[channel], lambda name, split=split: split(name[len(inside) :])
            )
            for channel in files
            for part, split in (("File", os.path.basename), ("Path", os.path.dirname))
        },
    )
    return pd.concat([table, rows.drop(columns=table.columns, errors="ignore")], axis=1)


def refuse(path: Path, problems: list[Problem]) -> None:
    """Stop at errors; print warnings and notes, which stop nothing."""
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise InputError(f"{path}: {count(errors)} problems in the table of this screen", errors)
    for problem in problems[:SHOWN]:
        print(f"{problem.severity}: {problem}")
    if len(problems) > SHOWN:
        print(f"... and {count(problems[SHOWN:])} more")
