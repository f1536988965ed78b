"""Any screen, by a CellProfiler LoadData table."""

import math
import os
import re
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pandas as pd

from mcnn_core.columns import _each, is_dmso, joint_codes
from mcnn_core.errors import SHOWN, InputError, Problem, count
from mcnn_core.readers.images import cropped, page_names
from mcnn_core.readers.places import (
    Finder,
    common_folder,
    expanded,
    find_images,
    finder_of,
    notes,
    to_fetch,
)
from mcnn_core.readers.planes import one_row_per_field
from mcnn_core.readers.platemap import with_platemap
from mcnn_core.readers.reading import PLAIN, Reading
from mcnn_core.readers.spelling import (
    canonical,
    control_type,
    is_control,
    like_a_control,
    micromolar,
    note,
    number,
    read_as,
    vehicle,
    well,
)
from mcnn_core.readers.tables import listed, read_cells, table_name
from mcnn_core.screen import (
    CONTROL,
    REQUIRED,
    Screen,
    concentration_key,
    repeated,
    treatment_key,
)

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


MAX_CHANNELS = 6


APART = "expected the files of all planes of a field in one folder"


# What to check: for a column and the code of a problem, the cells, which of them are wrong, and
# what is said after such a cell.
Rules = dict[tuple[str, str], tuple[pd.Series, pd.Series, str | pd.Series]]


#: What names a field, as one column.
FIELD = "plate, well and site"


A_COUNT = "is not a whole number, 0 or more"


A_DOSE = "is not a number of micromolar, 0 or more"


def _is_count(text: pd.Series) -> pd.Series:
    return text.str.fullmatch(r"\s*[0-9]{1,15}(\.0*)?\s*")


def _is_dose(text: pd.Series) -> pd.Series:
    number = pd.to_numeric(text.str.strip(), errors="coerce")
    return (text.str.strip() == "") | ((number >= 0) & (number < math.inf))


def _treatments(compounds: pd.Series, doses: pd.Series) -> pd.Series:
    """Return the treatment of each row, "" where its dose is not a number."""
    codes, first = joint_codes(compounds, doses)
    few = doses.iloc[first]
    names = [
        treatment_key(compound.strip(), dose) if ok else ""
        for compound, dose, ok in zip(compounds.iloc[first], few, _is_dose(few), strict=True)
    ]
    return pd.Series(names, dtype=str).take(codes).set_axis(compounds.index)


# ----------------------------------------------------------------- lines and columns


#: What begins the names of columns, in any case, with or without Image_ before it.
PREFIX = re.compile(r"^(?:Image_)?(FileName|PathName|URL|Frame|Metadata)_", re.IGNORECASE)


PREFIXES = {name.lower(): name for name in ("FileName", "PathName", "URL", "Frame", "Metadata")}


def _rows(path: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Read any table as `read_cells` does, each column once; a leading Image_ goes."""
    rows, problems = read_cells(path)
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


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV as `_rows` does; refuse a column that occurs twice and a line of other length."""
    rows, problems = _rows(path)
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise InputError(
            f"{path}: expected each column once, and as many cells in every line as in the header",
            errors,
        )
    return rows


def _columns(
    path: Path, rows: pd.DataFrame, required: list[str]
) -> tuple[tuple[str, ...], list[Problem]]:
    """Return the usable channels, and everything that is wrong in the header."""
    named = {
        part: [name[9:] for name in rows if name.startswith(f"{part}Name_") and name[9:]]
        for part in ("File", "Path")
    }
    wrong = [
        ("column-missing", name, f"column {name} is missing")
        for name in required
        if name not in rows
    ]
    if len(wrong) == len(required) and not (named["File"] or named["Path"] or rows.empty):
        what = f"expected a header with {', '.join(required)} and FileName_<channel>, got "
        text = f"{path}, line 1: {what}{', '.join(map(repr, rows.columns[:5]))}"
        return (), [Problem(text, "column-missing", str(path), 1)]
    for part, other in (("File", "Path"), ("Path", "File")):
        for channel in named[part]:
            if channel not in named[other]:
                column = f"{part}Name_{channel}"
                what = f"channel {channel!r} has {column} but no {other}Name_{channel}"
                wrong.append(("channel-unpaired", column, what))
    if not 1 <= len(named["File"]) <= MAX_CHANNELS:
        what = f"expected 1 to {MAX_CHANNELS} channels, each with a column FileName_<channel>, got "
        choose = ": choose with CHANNELS=name,name" * (len(named["File"]) > MAX_CHANNELS)
        wrong.append(("channel-count", "", f"{what}{len(named['File'])}{choose}"))
    if "Metadata_Treatment" in rows:
        what = "is made from compound and concentration: give yours another name"
        wrong.append(("column-reserved", "Metadata_Treatment", f"column Metadata_Treatment {what}"))
    if rows.empty:
        wrong.append(("table-empty", "", "no rows below the header"))
    channels = [channel for channel in named["File"] if channel in named["Path"]]
    problems = [Problem(text, code, str(path), 1, column) for code, column, text in wrong]
    return tuple(channels[:MAX_CHANNELS]), problems


def _functions(rows: pd.DataFrame) -> list[str]:
    """Return the channels that are no images but illumination functions, by name or by files."""
    names = [name[9:] for name in rows if name.startswith("FileName_") and name[9:]]

    def arrays(cells: pd.Series) -> bool:
        named = cells[cells.str.strip() != ""].drop_duplicates()
        return len(named) > 0 and bool(named.str.contains(r"\.(?:npy|mat)\s*$", case=False).all())

    return [
        name
        for name in names
        if name.lower().startswith("illum") or arrays(rows[f"FileName_{name}"])
    ]


def _wanted(rows: pd.DataFrame, channels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the channels to read as the table names them, in any case, with Orig or without."""
    named = [name[9:] for name in rows if name.startswith("FileName_") and name[9:]]
    spelt = {name.casefold().removeprefix("orig"): name for name in named}
    plain = [name.casefold().removeprefix("orig") for name in channels]
    return tuple(
        name if name in named or len(spelt) < len(named) else spelt.get(one, name)
        for name, one in zip(channels, plain, strict=True)
    )


def _left_out(
    path: Path, rows: pd.DataFrame, wanted: tuple[str, ...]
) -> tuple[list[str], list[Problem]]:
    """Return the columns of channels that are not read, and what is said of that."""
    functions = _functions(rows)
    named = [name[9:] for name in rows if name.startswith("FileName_") and name[9:]]
    images = [name for name in named if name not in functions]
    problems = [
        Problem(
            f"{path}, line 1: there is no channel {name!r}: CHANNELS takes {', '.join(images)}",
            "channel-unknown",
            str(path),
            1,
        )
        for name in wanted
        if name not in images
    ]
    if functions:
        text = f"{', '.join(functions)} are illumination functions, no channels"
        problems.append(note(path, text, "channels-left"))
    known = all(name in images for name in wanted)
    others = [name for name in images if wanted and name not in wanted and known]
    if others:
        problems.append(note(path, f"channels {', '.join(others)} are not read", "channels-left"))
    return [
        f"{part}Name_{name}" for name in functions + others for part in ("File", "Path")
    ], problems


def _channels(path: Path, rows: pd.DataFrame, required: list[str]) -> tuple[str, ...]:
    """Return the channel names, or refuse the header with everything that is wrong in it."""
    channels, problems = _columns(path, rows, required)
    if problems:
        raise InputError(f"{path}: invalid columns in the table of a screen", problems)
    return channels


# ------------------------------------------------------------------------------ cells


def _problems(path: Path, rules: Rules) -> tuple[list[Problem], np.ndarray]:
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


def _filled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with every column; text stands in for those that the file lacks."""
    places = dict(zip(REQUIRED, ("not named", "A01", rows.index.astype(str)), strict=True))
    return rows.assign(
        **{name: value for name, value in (DEFAULTS | places).items() if name not in rows}
    )


def _with_site(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Give every field the site 1 where no column names it and no well has two rows."""
    place = ["Metadata_Plate", "Metadata_Well"]
    if "Metadata_Site" in rows or not {*place} <= {*rows} or rows.duplicated(place).any():
        return rows, []
    text = "no column of sites, and one row per well: each is site 1"
    return rows.assign(Metadata_Site="1"), [note(path, text, "column-taken", "Metadata_Site")]


def _facts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the known columns in their order, tidied but still text; a well may be ""."""
    tidy = {name: rows[f"Metadata_{name}"].str.strip() for name in ("Plate", "Batch")}
    control = _each(rows["Metadata_control_type"], control_type)
    compound = _each(rows["Metadata_Compound"], vehicle)
    compound = compound.where(
        ~control.isin(["poscon", "trt"]), rows["Metadata_Compound"].str.strip()
    )
    dmso = _each(compound, is_dmso, bool)
    by_compound = (control == "") | _each(control, is_control, bool) & dmso
    by_compound |= control.str.lower().isin(["false", "no"])
    control = control.mask(by_compound, dmso.map({True: "negcon", False: "trt"}))
    dose = _each(rows["Metadata_Concentration"], micromolar)
    dose = dose.mask(dmso & dose.str.fullmatch(r"\s*[0-9.,]+ ?%\s*(\(?v/v\)?)?\s*"), "")
    facts = {
        "Plate": tidy["Plate"],
        "Well": _each(rows["Metadata_Well"], well),
        "Site": _each(rows["Metadata_Site"], number),
        "Compound": compound,
        "Concentration": dose,
        "Treatment": _treatments(compound, dose),
        "MoA": rows["Metadata_MoA"].str.strip().where(control != "negcon", ""),
        "Replicate": _each(rows["Metadata_Replicate"], number),
        "Batch": tidy["Batch"],
        "control_type": control,
    }
    return pd.DataFrame(facts, index=rows.index).add_prefix("Metadata_")


def _read_otherwise(path: Path, rows: pd.DataFrame, facts: pd.DataFrame) -> list[Problem]:
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


def _field(facts: pd.DataFrame) -> pd.Series:
    """Return the name of each row's field, "" where the row does not say it."""
    plate, place, site = (facts[name] for name in REQUIRED)
    whole = (plate != "") & (place != "") & _is_count(site)
    return (plate + " " + place + " site " + site).where(whole, "")


def _cell_rules(rows: pd.DataFrame, facts: pd.DataFrame) -> Rules:
    """Return what is checked of all cells but those that name files."""
    plate, place, site, compound, treatment, moa, control = (
        facts[f"Metadata_{name}"]
        for name in ("Plate", "Well", "Site", "Compound", "Treatment", "MoA", "control_type")
    )
    mechanisms = moa[(moa != "") & (treatment != "")].groupby(treatment).nunique()
    several = treatment.isin(mechanisms.index[mechanisms > 1])
    field = _field(facts)
    cells = rows.assign(Metadata_control_type=control, **{FIELD: field})
    masks = {
        ("Metadata_Plate", "cell-empty"): (plate == "", "is empty"),
        ("Metadata_Site", "not-a-count"): (~_is_count(site), A_COUNT),
        ("Metadata_Replicate", "not-a-count"): (
            ~_is_count(facts["Metadata_Replicate"]),
            A_COUNT,
        ),
        ("Metadata_Concentration", "not-a-dose"): (
            ~_is_dose(facts["Metadata_Concentration"]),
            A_DOSE,
        ),
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


def _shared(rows: pd.DataFrame, files: pd.DataFrame) -> pd.DataFrame:
    """Return where a page of a file, or one ``Metadata_Tile`` of it, is named twice."""
    tile = rows.get("Metadata_Tile", pd.Series("", rows.index)).str.strip()
    pages = page_names(rows, tuple(files))
    each = [(files[channel].cat.codes, tile, pages[channel]) for channel in files]
    codes, _ = joint_codes(*(pd.concat(parts) for parts in zip(*each, strict=True)))
    twice = pd.Series(codes).duplicated(keep=False).to_numpy()
    return pd.DataFrame(twice.reshape(files.shape, order="F"), rows.index, files.columns)


def _file_rules(
    rows: pd.DataFrame,
    files: pd.DataFrame,
    places: pd.DataFrame,
    must_exist: bool,
    leave_out: bool,
) -> Rules:
    """Return what is checked of the names of files, which were found at `places`."""
    found = places.map(lambda place: place.code == "")
    shared = _shared(rows, files) & found
    rules: Rules = {}
    for channel in files:
        name, paths, column = rows[f"FileName_{channel}"], files[channel], f"file of {channel}"
        empty = name.str.strip() == ""
        code, text = (
            places[channel].map(attrgetter(part)).mask(empty, "") for part in ("code", "text")
        )
        folder = rows[f"PathName_{channel}"].str.strip()
        written = folder.where(folder == "", folder + "/") + name
        rules |= {
            (column, "file-outside"): (paths, code == "file-outside", text),
            (column, "file-ambiguous"): (written, code == "file-ambiguous", text),
            (column, "file-shared"): (
                paths,
                shared[channel] & ~empty,
                "is named more than once: expected one file, or one Metadata_Tile or "
                f"Frame_{channel} of it, per field and channel",
            ),
        }
        if leave_out:
            continue
        absent = found[channel] & ~empty & must_exist
        absent &= ~_each(paths, os.path.isfile, bool)
        missing = (code == "file-missing") | absent
        where = paths.astype(str).where(absent, written)
        rules |= {
            (name.name, "cell-empty"): (name, empty, "is empty"),
            (column, "file-missing"): (where, missing, text.mask(absent, "does not exist")),
        }
    return rules


def _typed(
    rows: pd.DataFrame, facts: pd.DataFrame, files: pd.DataFrame, inside: str
) -> pd.DataFrame:
    """Return the table of a screen from rows without problems; its paths begin below `inside`."""
    dmso = _each(facts["Metadata_Compound"], is_dmso, bool)
    dose = pd.to_numeric(_each(facts["Metadata_Concentration"], concentration_key))
    table = facts.assign(
        Metadata_Site=_each(facts["Metadata_Site"], int, "int64"),
        Metadata_Concentration=dose.mask(dmso & dose.isna(), 0.0),
        Metadata_Replicate=_each(
            facts["Metadata_Replicate"], lambda text: int(float(text)), "int64"
        ),
        **{
            f"{part}Name_{channel}": _each(
                files[channel], lambda name, split=split: split(name[len(inside) :])
            )
            for channel in files
            for part, split in (("File", os.path.basename), ("Path", os.path.dirname))
        },
    )
    return pd.concat([table, rows.drop(columns=table.columns, errors="ignore")], axis=1)


def _table(
    path: Path,
    rows: pd.DataFrame,
    channels: tuple[str, ...],
    finder: Finder,
    must_exist: bool = False,
    reading: Reading = PLAIN,
) -> tuple[pd.DataFrame, list[Problem], pd.DataFrame, Path]:
    """Check the rows of `path`, text in every column.

    Return the right ones typed and normalised, one per field, every problem, every field's files,
    and the folder that holds them all. Where a column of `REQUIRED` is missing, text stands in for
    it and is not checked. The index is the line in the file less one.
    """
    missing = [name for name in REQUIRED if name not in rows]
    rows = _filled(rows)
    facts = _facts(rows)
    rows, first, problems = one_row_per_field(path, rows, _field(facts), reading)
    files, places = find_images(rows, channels, finder)
    leave_out = reading.incomplete == "leave-out"
    rules = _file_rules(rows, files, places, must_exist, leave_out)
    more, wrong = _problems(path, rules)
    found = places.map(lambda place: place.code == "")
    remote = places.map(lambda place: place.code == "file-remote")
    if remote.to_numpy().any():
        asked = [place.text for place in places.to_numpy()[remote.to_numpy()]]
        problems.append(to_fetch(path, finder, asked))
    problems += more
    gone = first[wrong | remote.any(axis=1)]
    planes = rows.filter(regex="^Frame_").join(files)
    lines = first.index[first.index == first].sort_values()
    rows, facts, files, found = (part.loc[lines] for part in (rows, facts, files, found))
    unchecked = [*missing, FIELD] if missing else []
    cells = {key: rule for key, rule in _cell_rules(rows, facts).items() if key[0] not in unchecked}
    more, wrong = _problems(path, cells)
    problems = sorted([*problems, *more], key=lambda problem: problem.row or 0)
    problems += _read_otherwise(path, rows, facts) + notes(path, finder)
    home = common_folder(finder, files.where(found))
    right = ~wrong & ~rows.index.isin(gone)
    table = _typed(rows[right], facts[right], files[right], os.path.join(home, ""))
    if len(planes) > len(files):
        table, more = _with_planes(path, table, planes, first)
        problems += more
    table = _with_functions(table, rows, _functions(rows), finder, home)
    named = rows[[f"FileName_{channel}" for channel in channels]].ne("").to_numpy()
    return table, problems, files.where(found & named), Path(home)


def _with_planes(
    path: Path, table: pd.DataFrame, planes: pd.DataFrame, first: pd.Series
) -> tuple[pd.DataFrame, list[Problem]]:
    """Give each field the names, and pages, of all its planes' files, which lie in one folder."""
    problems: list[Problem] = []
    for name in planes:
        parts = planes[name].astype(str).str.rpartition("/")
        column = name if name.startswith("Frame_") else f"FileName_{name}"
        table[column] = parts[2].groupby(first).agg("/".join)[table.index]
        apart = parts[0].groupby(first).nunique() > 1
        problems += listed(path, "planes-apart", apart.index[apart], lambda _: APART, column)
    return table.drop(index={problem.row - 1 for problem in problems if problem.row}), problems


def _with_functions(
    table: pd.DataFrame, rows: pd.DataFrame, functions: list[str], finder: Finder, home: str
) -> pd.DataFrame:
    """Give the names of illumination functions that are found as those of images are."""
    for name in functions:
        named = rows.loc[table.index, [f"FileName_{name}", f"PathName_{name}"]]
        paths, places = find_images(named, [name], finder)
        found = places[name].map(lambda place: place.code == "") & named.iloc[:, 0].ne("")
        whole = _each(paths[name], lambda one: one.removeprefix(os.path.join(home, "")))
        for column, split in zip(named, (os.path.basename, os.path.dirname), strict=True):
            table[column] = named[column].where(~found, _each(whole, split))
    return table


def _refuse(path: Path, problems: list[Problem]) -> None:
    """Stop at errors; print warnings and notes, which stop nothing."""
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise InputError(f"{path}: {count(errors)} problems in the table of this screen", errors)
    for problem in problems[:SHOWN]:
        print(f"{problem.severity}: {problem}")
    if len(problems) > SHOWN:
        print(f"... and {count(problems[SHOWN:])} more")


def read_loaddata(
    csv_path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    reading: Reading = PLAIN,
) -> Screen:
    """Read a CellProfiler LoadData table (.csv or .csv.gz) of any screen.

    Parameters
    ----------
    csv_path : path
        ``FileName_<channel>`` and ``PathName_<channel>`` for 1 to 6 channels, ``Metadata_Plate``,
        ``Metadata_Well``, ``Metadata_Site`` (each with or without ``Image_`` before it). Known when
        present: ``Metadata_Compound``, ``Metadata_Concentration`` (micromolar), ``Metadata_MoA``,
        ``Metadata_Replicate``, ``Metadata_Batch``, ``Metadata_control_type`` (where absent or
        empty, compound DMSO is negcon and the rest trt). A negative control is never annotated.
    root : path, optional
        Folder that must hold every image; the folder of `csv_path` by default. Relative paths are
        resolved against the CSV, absolute ones taken as they are; neither may leave `root`, by
        ``..`` or by a link.
    reading : Reading
        How it is to be read; warnings and notes are printed.

    Raises
    ------
    InputError
        With every wrong column, or every wrong cell and its line.
    """
    screen, problems, _ = examine_loaddata(csv_path, root, True, reading)
    if reading.sizes == "crop":
        screen, text = cropped(screen)
        problems += [Problem(text, "sizes-cut", severity="warning")] if text else []
    _refuse(Path(csv_path), problems)
    return replace(screen, table=screen.table.reset_index(drop=True))


def examine_loaddata(
    csv_path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    must_exist: bool = False,
    reading: Reading = PLAIN,
) -> tuple[Screen, list[Problem], pd.DataFrame]:
    """Read what is right in a LoadData table and name all the rest.

    Parameters
    ----------
    csv_path, root, reading
        As for `read_loaddata`.
    must_exist : bool
        Whether a row whose images do not exist is wrong.

    Returns
    -------
    screen : Screen
        Of the rows without a problem; the index of its table is the line in the file less one.
        Where a column of `REQUIRED` is missing, its values are stand-ins.
    problems : list of Problem
    files : DataFrame
        Path of every row's image, wrong rows too, one column per channel and the same index;
        missing where it is empty or outside the root. All columns are categorical, with the same
        categories.

    Raises
    ------
    InputError
        If it is no table, has no row or no channel with both its columns.
    """
    path = Path(csv_path)
    rows, problems = _rows(path)
    rows, taken = canonical(path, rows)
    if reading.platemap:
        rows, said = with_platemap(path, rows, reading.platemap)
        taken += said
    rows, one_site = _with_site(path, expanded(rows))
    taken += one_site
    wanted = _wanted(rows, reading.channels)
    left, unknown = _left_out(path, rows, wanted)
    channels, wrong = _columns(path, rows.drop(columns=left), REQUIRED)
    if any(one.severity == "error" for one in unknown):
        wrong = [one for one in wrong if one.code != "channel-count"]
    channels = tuple(sorted(channels, key=(*wanted, *channels).index))
    problems += taken + wrong + unknown
    if rows.empty or not channels:
        _refuse(path, problems)
    finder = finder_of(path, root, reading.data)
    table, wrong, files, home = _table(path, rows, channels, finder, must_exist, reading)
    return Screen(table_name(path), table, channels, home, False, reading), problems + wrong, files
