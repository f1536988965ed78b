"""Any screen, by a CellProfiler LoadData table."""

import os
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pandas as pd

from mcnn_core.columns import channels_in, joint_codes, mapped
from mcnn_core.errors import Problem
from mcnn_core.readers.cells import (
    FIELD,
    Rules,
    cell_rules,
    field_of,
    filled,
    read_otherwise,
    read_rows,
    refuse,
    tidied,
    typed,
    wrong_cells,
)
from mcnn_core.readers.images import cropped, page_names
from mcnn_core.readers.long_table import widened, without_copies
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
from mcnn_core.readers.spelling import canonical, note
from mcnn_core.readers.tables import listed, table_name
from mcnn_core.screen import REQUIRED, Screen

MAX_CHANNELS = 6

APART = "expected the files of all planes of a field in one folder"


# ----------------------------------------------------------------- lines and columns


def channels_of(
    path: Path, rows: pd.DataFrame, required: list[str]
) -> tuple[tuple[str, ...], list[Problem]]:
    """Return the usable channels, and everything that is wrong in the header."""
    named = {part: channels_in(rows, f"{part}Name") for part in ("File", "Path")}
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

    def arrays(channel: str) -> bool:
        cells = rows[f"FileName_{channel}"]
        named = cells[cells.str.strip() != ""].drop_duplicates()
        return len(named) > 0 and bool(named.str.contains(r"\.(?:npy|mat)\s*$", case=False).all())

    return [one for one in channels_in(rows) if one.lower().startswith("illum") or arrays(one)]


def _wanted(rows: pd.DataFrame, channels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the channels to read as the table names them, in any case, with Orig or without."""
    named = channels_in(rows)
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
    images = [name for name in channels_in(rows) if name not in functions]
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
    parts = ("FileName", "PathName")
    return [f"{part}_{name}" for name in functions + others for part in parts], problems


# ------------------------------------------------------------------------------ cells


def with_site(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Give every field the site 1 where no column names it and no well has two rows."""
    place = ["Metadata_Plate", "Metadata_Well"]
    if "Metadata_Site" in rows or not {*place} <= {*rows} or rows.duplicated(place).any():
        return rows, []
    text = "no column of sites, and one row per well: each is site 1"
    return rows.assign(Metadata_Site="1"), [note(path, text, "column-taken", "Metadata_Site")]


def _shared(rows: pd.DataFrame, files: pd.DataFrame, field: pd.Series) -> pd.DataFrame:
    """Return where a page of a file, or one ``Metadata_Tile`` of it, is named twice.

    Two rows of one field that name it for one channel have that error alone.
    """
    tile = rows.get("Metadata_Tile", pd.Series("", rows.index)).str.strip()
    pages = page_names(rows, tuple(files))
    each = [(files[channel].cat.codes, tile, pages[channel]) for channel in files]
    codes, _ = joint_codes(*(pd.concat(parts) for parts in zip(*each, strict=True)))
    names = field.where(field != "", field.index.astype(str))
    named = [names + f" {place}" for place in range(len(files.columns))]
    meant = pd.Series(pd.factorize(pd.concat(named))[0])
    twice = meant.groupby(codes).transform("nunique").gt(1).to_numpy()
    return pd.DataFrame(twice.reshape(files.shape, order="F"), rows.index, files.columns)


def _file_rules(
    rows: pd.DataFrame,
    files: pd.DataFrame,
    places: pd.DataFrame,
    field: pd.Series,
    must_exist: bool,
    leave_out: bool,
) -> Rules:
    """Return what is checked of the names of files, which were found at `places`."""
    found = places.map(lambda place: place.code == "")
    shared = _shared(rows, files, field) & found
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
        absent &= ~mapped(paths, os.path.isfile, bool)
        missing = (code == "file-missing") | absent
        where = paths.astype(str).where(absent, written)
        rules |= {
            (name.name, "cell-empty"): (name, empty, "is empty"),
            (column, "file-missing"): (where, missing, text.mask(absent, "does not exist")),
        }
    return rules


def field_table(
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
    rows = filled(rows)
    facts = tidied(rows)
    rows, first, problems = one_row_per_field(path, rows, field_of(facts), reading)
    files, places = find_images(rows, channels, finder)
    leave_out = reading.incomplete == "leave-out"
    field = field_of(facts.loc[rows.index])
    rules = _file_rules(rows, files, places, field, must_exist, leave_out)
    more, wrong = wrong_cells(path, rules)
    codes = places.map(attrgetter("code"))
    found, remote = codes == "", codes == "file-remote"
    if remote.to_numpy().any():
        asked = [place.text for place in places.to_numpy()[remote.to_numpy()]]
        problems.append(to_fetch(path, finder, asked))
    problems += more
    gone = first[wrong | remote.any(axis=1)]
    planes = rows.filter(regex="^Frame_").join(files)
    lines = first.index[first.index == first].sort_values()
    rows, facts, files, found = (part.loc[lines] for part in (rows, facts, files, found))
    unchecked = [*missing, FIELD] if missing else []
    cells = {key: rule for key, rule in cell_rules(rows, facts).items() if key[0] not in unchecked}
    more, wrong = wrong_cells(path, cells)
    problems = sorted([*problems, *more], key=lambda problem: problem.row or 0)
    problems += read_otherwise(path, rows, facts) + notes(path, finder)
    home = common_folder(finder, files.where(found))
    right = ~wrong & ~rows.index.isin(gone)
    table = typed(rows[right], facts[right], files[right], os.path.join(home, ""))
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
    # A field may be gone already, for another reason.
    apart_rows = [problem.row - 1 for problem in problems if problem.row]
    return table.drop(index=apart_rows, errors="ignore"), problems


def _with_functions(
    table: pd.DataFrame, rows: pd.DataFrame, functions: list[str], finder: Finder, home: str
) -> pd.DataFrame:
    """Give the names of illumination functions that are found as those of images are."""
    for name in functions:
        named = rows.loc[table.index, [f"FileName_{name}", f"PathName_{name}"]]
        paths, places = find_images(named, [name], finder)
        found = places[name].map(lambda place: place.code == "") & named.iloc[:, 0].ne("")
        whole = mapped(paths[name], lambda one: one.removeprefix(os.path.join(home, "")))
        for column, split in zip(named, (os.path.basename, os.path.dirname), strict=True):
            table[column] = named[column].where(~found, mapped(whole, split))
    return table


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
    refuse(Path(csv_path), problems)
    return replace(screen, table=screen.table.reset_index(drop=True))


def examine_loaddata(
    csv_path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    must_exist: bool = False,
    reading: Reading = PLAIN,
) -> tuple[Screen, list[Problem], pd.DataFrame]:
    """Read the valid rows of a LoadData table and name every problem in the others.

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
    rows, problems = read_rows(path)
    rows, copies = without_copies(path, rows)
    rows, taken = canonical(path, rows)
    rows, wide = widened(path, rows)
    taken += copies + wide
    if reading.platemap:
        rows, more = with_platemap(path, rows, reading.platemap)
        taken += more
    rows, one_site = with_site(path, expanded(rows))
    taken += one_site
    wanted = _wanted(rows, reading.channels)
    left, unknown = _left_out(path, rows, wanted)
    channels, wrong = channels_of(path, rows.drop(columns=left), REQUIRED)
    if any(one.severity == "error" for one in unknown):
        wrong = [one for one in wrong if one.code != "channel-count"]
    channels = tuple(sorted(channels, key=(*wanted, *channels).index))
    problems += taken + wrong + unknown
    if rows.empty or not channels:
        refuse(path, problems)
    finder = finder_of(path, root, reading.data)
    table, wrong, files, home = field_table(path, rows, channels, finder, must_exist, reading)
    return Screen(table_name(path), table, channels, home, False, reading), problems + wrong, files
