"""Any table file as text cells: CSV and its kin, Parquet, an Excel workbook; known by content."""

import csv
import io
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pandas as pd

from mcnn_core.errors import KEPT, InputError, Problem
from mcnn_core.machine.files import FREE, RATIO, read_bytes
from mcnn_core.readers.spelling import HEAD, PLATE_ROW, most_known

#: Endings of table files, each also with .gz after it.
ENDINGS = (".csv", ".tsv", ".txt", ".parquet", ".xlsx")


#: What may stand between two cells, in words.
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", " ": "spaces"}


#: How files begin that are no tables, and what to do with them.
OTHERS = {
    b"\xd0\xcf\x11\xe0": "it is a workbook of Excel 2003 or older: save it as .xlsx or CSV",
    b"version https://git-lfs": "it stands for a file that was not fetched: type git lfs pull",
    b"<!DOCTYPE": "it is a web page: download the file itself",
    b"<html": "it is a web page: download the file itself",
}


#: How Parquet files and workbooks begin.
PARQUET, ZIP = b"PAR1", b"PK\x03\x04"


#: A range of merged cells in the XML of a sheet.
MERGED = re.compile(
    rb"<(?:\w+:)?mergeCell\s[^<>]*?ref=\"([A-Z]{1,3}[0-9]{1,7}:[A-Z]{1,3}[0-9]{1,7})\""
)


#: A cell that has a formula and no value; that of an empty text is a text.
UNCOMPUTED = re.compile(
    rb'<c\s(?![^<>]*\bt="str")[^<>]*>\s*<f(?:\s[^<>]*)?(?:/>|>[^<]*</f>)'
    rb"\s*(?:<v\s*/>|<v></v>)?\s*</c>"
)


#: Columns at most, and rows of a sheet at most.
MAX_COLUMNS, MAX_ROWS = 5_000, 2**20


#: Rows of a table that are parsed at a time: while they are, every cell is an object of its own.
ROWS_AT_ONCE = 50_000


#: A number as programs write it where the comma is the decimal point.
DECIMAL_COMMA = r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*"


def is_table(name: str | os.PathLike) -> bool:
    """Whether a name is that of a table: an existing file, or one with an ending of `ENDINGS`."""
    text = os.fspath(name)
    return os.path.isfile(text) or text.lower().removesuffix(".gz").endswith(ENDINGS)


def table_name(path: str | os.PathLike) -> str:
    """Return the name of a table file without folder and endings."""
    name = Path(path).name
    plain = name[:-3] if name.lower().endswith(".gz") else name
    return next((plain[: -len(end)] for end in ENDINGS if plain.lower().endswith(end)), plain)


def listed(
    path: Path, code: str, lines: Sequence[int], say: Callable[[int], str], column: str = ""
) -> list[Problem]:
    """Return a problem per line (by its index), at most `KEPT` and one that stands for the rest."""
    where = f", {column}" if column else ""

    def problem(place: str, index: int, n: int = 1) -> Problem:
        text = f"{path}, {place}: {say(index)}"
        return Problem(text, code, str(path), int(index) + 1, column, n)

    problems = [problem(f"line {index + 1}{where}", index) for index in lines[:KEPT]]
    if more := len(lines[KEPT:]):
        first = lines[KEPT]
        problems.append(problem(f"from line {first + 1} on{where}, {more:,} more", first, more))
    return problems


def decoded_text(path: str | os.PathLike) -> str:
    """Return a text in UTF-8, UTF-16 or Windows-1252, plain or gzip.

    Raises
    ------
    InputError
        If it cannot be read or is no text.
    """
    content = read_bytes(path)
    try:
        return content.decode(_encoding(content)[0]).removeprefix("\ufeff")
    except ValueError as error:
        raise InputError(f"{path} is not a readable text: {error}") from error


def _never(name: str) -> bool:
    return False


def read_cells(
    path: str | os.PathLike, numeric: Callable[[str], bool] = _never
) -> tuple[pd.DataFrame, list[Problem]]:
    """Read a table file as text; which kind it is, its content says and not its name.

    Kinds are text with cells separated by commas, semicolons, tabs, vertical bars or spaces (a
    ``sep=`` line may say which), in UTF-8, UTF-16 or Windows-1252, with any line ends; Parquet; the
    sheet of an Excel workbook that has most known columns, or else is the largest, with those that
    have the same header (``Metadata_Sheet`` names them). Each may be packed by gzip. Lines above
    the header with few cells, empty lines, and columns without name are left out. Where semicolons
    separate, commas in numbers become points; merged cells all say what the first does.

    Parameters
    ----------
    path : path
    numeric : callable
        Whether a column of this name may stay one of numbers, as Parquet has them.

    Returns
    -------
    rows : DataFrame
        Of text, "" where nothing is; columns as the header names them, stripped, perhaps one name
        twice. The row with index k is line k + 1 of the file.
    problems : list of Problem
        Every line with more or fewer cells than the header, which is left out of `rows`; and one
        note (``table-read-as``) that says as what the file was read, unless it is a plain CSV.

    Raises
    ------
    InputError
        If it is no table, holds no header, or is larger than `MAX_COLUMNS` and the bounds of
        `mcnn_core.machine.files` allow.
    """
    path = Path(path)
    with _readable(path) as content:
        if content.startswith(PARQUET):
            return _named(path, *_parquet(content, numeric), [], ["Parquet"])
        if content.startswith(ZIP):
            records, taken = _largest(_sheets(content))
        else:
            records, taken = _text(content)
        return _named(path, *_below_header(path, records, taken), taken)


def read_sheets(path: str | os.PathLike) -> dict[str, list[list[str]]]:
    """Return the rows of every sheet of a workbook by its name, of a text by ""; none of Parquet.

    Raises
    ------
    InputError
        As `read_cells`.
    """
    with _readable(Path(path)) as content:
        if content.startswith(PARQUET):
            return {}
        return _sheets(content) if content.startswith(ZIP) else {"": list(_text(content)[0])}


@contextmanager
def _readable(path: Path) -> Iterator[bytes]:
    """Yield what a file holds; what shows that it is no table becomes one error."""
    try:
        content = read_bytes(path)
    except InputError as error:
        raise InputError(
            error.what, [Problem(error.what, "table-unreadable", str(path))]
        ) from error
    try:
        for begin, what in OTHERS.items():
            if content.startswith(begin):
                raise ValueError(what)
        yield content
    except InputError:
        raise
    except (ValueError, csv.Error) as error:
        what = f"{path} is not a readable table: {error}"
        raise InputError(what, [Problem(str(error), "table-unreadable", str(path))]) from error


def _named(
    path: Path, rows: pd.DataFrame, names: list[str], problems: list[Problem], taken: list[str]
) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the columns that have a name, under it; and what is wrong or worth saying."""
    unnamed = [
        str(place + 1)
        for place, name in enumerate(names)
        if not name and (rows.iloc[:, place] != "").any()
    ]
    if unnamed:
        taken = [*taken, f"without column {', '.join(unnamed)}, which has no name"]
    if taken:
        text = f"{path}: read as {', '.join(taken)}".replace("read as with", "read with")
        problems = [Problem(text, "table-read-as", str(path), severity="note"), *problems]
    rows = rows.set_axis(names, axis=1).loc[:, [bool(name) for name in names]]
    return rows, problems


def _below_header(
    path: Path, records: Iterator[list[str]], taken: list[str]
) -> tuple[pd.DataFrame, list[str], list[Problem]]:
    """Find the header among the first lines; return the rows below it, its names, what is wrong."""
    first = list(islice(records, HEAD))
    filled = [sum(bool(cell.strip()) for cell in cells) for cells in first]
    # A remark above the header may hold commas.
    filled = [
        0 if cells and cells[0].startswith("#") and n < max(filled) else n
        for cells, n in zip(first, filled, strict=True)
    ]
    usual = sorted(n for n in filled if n > 1) or [0]
    least = max(1, usual[len(usual) // 2] / 2)
    start = next((line for line in range(len(first)) if filled[line] > least), None)
    if start is None:
        start = next((line for line in range(len(first)) if filled[line]), None)
    if start is None:
        raise ValueError("it has no header")
    names = [name.strip() for name in first[start]]
    titles = [line for line in range(start) if any(first[line]) and first[line][0][:4] != "sep="]
    if titles:
        taken.append(f"without line {', '.join(str(line + 1) for line in titles)} above its header")
    if _numbered(first[start + 1 :], len(names)):
        names = ["", *names]
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"expected at most {MAX_COLUMNS:,} columns, got {len(names):,}")
    rows, long, short = _fitted(chain(first[start + 1 :], records), len(names), start + 1)
    if "separated by semicolons" in taken and _decimal_points(rows):
        taken.append("with decimal commas")
    of_header = f"cells than the {len(names)} of the header"
    quote = f"more {of_header}: put text that contains a comma in quotes"
    problems = listed(path, "row-too-long", long, lambda index: quote)
    problems += listed(path, "row-too-short", short, lambda index: f"fewer {of_header}")
    return rows, names, problems


def _numbered(records: list[list[str]], width: int) -> bool:
    """Whether each row begins with its number, and the header has no cell for it (as R writes)."""
    rows = [cells for cells in records if any(cells)]
    numbers = [cells[0] for cells in rows]
    wider = all(len(cells) == width + 1 for cells in rows)
    return wider and len(rows) > 1 and numbers == [str(row + 1) for row in range(len(rows))]


def _fitted(
    records: Iterable[list[str]], width: int, start: int
) -> tuple[pd.DataFrame, list[int], list[int]]:
    """Return the rows of `width` cells, and the index of those that are longer or shorter.

    Empty cells beyond the header count for nothing, and empty rows are left out.
    """
    parts, long, short = [pd.DataFrame(columns=range(width), dtype=str)], [], []
    numbered = enumerate(records, start)
    while chunk := list(islice(numbered, ROWS_AT_ONCE)):
        kept = {}
        for index, cells in chunk:
            if any(cells[width:]):
                long.append(index)
            elif any(cells) and len(cells) < width:
                short.append(index)
            elif any(cells):
                kept[index] = cells[:width]
        part = pd.DataFrame(list(kept.values()), list(kept), columns=range(width), dtype=str)
        parts.append(part)
    return pd.concat(parts[1:] or parts), long, short


def _decimal_points(rows: pd.DataFrame) -> bool:
    """Write a point for the comma, in place, where all cells with one are numbers; say whether."""
    found = False
    for place in rows:
        cells = rows[place]
        comma = cells.str.contains(",", regex=False)
        if comma.any() and cells[comma].str.fullmatch(DECIMAL_COMMA).all():
            rows[place] = cells.str.replace(",", ".", regex=False)
            found = True
    return found


# ----------------------------------------------------------------------------- the kinds


def _text(content: bytes) -> tuple[Iterator[list[str]], list[str]]:
    """Return the records of a text, and how it was read where that is not UTF-8 with commas."""
    encoding, taken = _encoding(content)
    # Decoded bit by bit: io.StringIO would hold four bytes for each character.
    text = io.TextIOWrapper(io.BytesIO(content), encoding, newline="")
    stated = re.fullmatch(r'"?sep=(.)"?[\r\n]*', text.readline(), re.IGNORECASE)
    separator = stated[1] if stated else _separator(text)
    if separator != ",":
        taken.append(f"separated by {SEPARATORS.get(separator, repr(separator))}")
    text.seek(0)
    records: Iterator[list[str]] = csv.reader(text, delimiter=separator, strict=True)
    if b'="' in content:  # as Excel is told that digits are text
        records = ([re.sub(r'^="(.*)"$', r"\1", cell) for cell in cells] for cells in records)
    return records, taken


def _encoding(content: bytes) -> tuple[str, list[str]]:
    """Return the encoding of a text, and its name where it is not UTF-8."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", ["UTF-16"]
    if content[1:4:2] == b"\0\0" or content[0:3:2] == b"\0\0":
        return ("utf-16-le" if content[1] == 0 else "utf-16-be"), ["UTF-16"]
    try:
        content.decode("utf-8")
        return "utf-8-sig", []
    except UnicodeDecodeError as error:
        # Windows-1252 gives nearly every byte a letter; what is no text has control characters.
        if re.search(rb"[\0-\x08\x0e-\x1f\x81\x8d\x8f\x90\x9d]", content):
            what = "expected CSV, Parquet or an Excel workbook (.xlsx), or text in UTF-8, UTF-16 "
            raise ValueError(f"{what}or Windows-1252: {error}") from error
        return "cp1252", ["Windows-1252"]


def _separator(text: io.TextIOWrapper) -> str:
    """Return what separates the cells of a text: spaces only where they divide more lines."""
    best = max((one for one in SEPARATORS if one != " "), key=lambda one: _fit(text, one))
    spaces = all(one > other for one, other in zip(_fit(text, " "), _fit(text, best), strict=True))
    return " " if spaces else best


def _fit(text: io.TextIOWrapper, separator: str) -> tuple[int, int, int]:
    """Return what a separator makes of the first lines.

    That is how many cells the lines have that are most alike, how many such lines there are, and
    how many lines it divides.
    """
    text.seek(0)
    try:
        records = list(islice(csv.reader(text, delimiter=separator), HEAD))
    except csv.Error:  # too long a cell: not this separator, or no table at all
        return 0, 0, 0
    widths = [len(cells) for cells in records if sum(bool(cell.strip()) for cell in cells) > 1]
    alike = ((width * n, n) for width, n in Counter(widths).items())
    return *max(alike, default=(0, 0)), len(widths)


def _parquet(content: bytes, numeric: Callable[[str], bool]) -> tuple[pd.DataFrame, list[str]]:
    """Return a Parquet file as text, and the names of its columns; an unnamed index is left out."""
    import pyarrow
    import pyarrow.parquet

    def cells(name: str, column: Any) -> pd.Series:
        kinds = pyarrow.types
        if numeric(name) and (kinds.is_floating(column.type) or kinds.is_integer(column.type)):
            return column.to_pandas()
        text = column.cast(pyarrow.string()).to_pandas().astype(object).fillna("")
        text = text.astype(str).replace("nan", "")
        midnight = r"^(\d{4}-\d\d-\d\d) 00:00:00(\.0+)?$"
        return text.replace(midnight, r"\1", regex=True)

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        facts = file.metadata
        if facts.num_columns > MAX_COLUMNS:
            raise ValueError(f"expected at most {MAX_COLUMNS:,} columns, got {facts.num_columns:,}")
        size = sum(facts.row_group(k).total_byte_size for k in range(facts.num_row_groups))
        _refuse_bomb(max(size, facts.num_rows * facts.num_columns), content)
        table = file.read()
        columns = {
            name: cells(name, column)
            for name, column in zip(table.column_names, table.columns, strict=True)
            if not re.fullmatch(r"__index_level_\d+__", name)
        }
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"damaged Parquet file, or one with nested columns: {error}") from error
    rows = pd.DataFrame(columns)
    return rows.set_axis(range(1, len(rows) + 1)), list(map(str.strip, columns))


def _refuse_bomb(size: int, content: bytes) -> None:
    if size > (most := max(FREE, RATIO * len(content))):
        raise ValueError(f"unpacks to more than {most:,} bytes or cells; no table is so long")


def _sheets(content: bytes) -> dict[str, list[list[str]]]:
    """Return the rows of each sheet of a workbook, all of one width; empty sheets have none."""
    try:
        import openpyxl
    except ImportError as error:
        what = "reading an Excel workbook needs the package openpyxl: install it, or save as CSV"
        raise ValueError(what) from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, warnings.catch_warnings():
            parts = {part.filename: part.file_size for part in archive.infolist()}
            if "xl/workbook.xml" not in parts:
                raise ValueError("a ZIP archive that is no Excel workbook (.xlsx): save it as CSV")
            _refuse_bomb(sum(parts.values()), content)
            warnings.simplefilter("ignore")  # of styles and validations, which no table needs
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
            sheets = {}
            for one in book:
                rows = _sheet(one.iter_rows(values_only=True), content)
                # Read as a stream, a sheet does not say what is merged, and what has no value.
                xml = archive.read(one._worksheet_path)
                if UNCOMPUTED.search(xml):
                    what = "has formulas without their values: open it in a spreadsheet program"
                    raise ValueError(f"the sheet {one.title!r} {what}, and save it again")
                sheets[one.title] = _unmerged(rows, MERGED.findall(xml), content)
    except ValueError:
        raise
    except Exception as error:  # what a damaged workbook can raise, openpyxl does not say
        raise ValueError(f"damaged Excel workbook: {error!r}") from error
    return sheets


def _largest(sheets: dict[str, list[list[str]]]) -> tuple[Iterator[list[str]], list[str]]:
    """Return the rows of the sheet with most known columns, or else the largest, and its name.

    Those with the same header follow, and a column says which is which.
    """
    filled = {title: rows for title, rows in sheets.items() if rows}
    if not filled:
        raise ValueError("it has no header: every sheet is empty")
    main = max(filled, key=lambda title: (most_known(filled[title]), sum(map(len, filled[title]))))
    starts = {title: _most_known_row(rows) for title, rows in filled.items()}
    head = filled[main][starts[main]]
    alike = [title for title, rows in filled.items() if rows[starts[title]] == head]
    rows = iter(filled[main])
    if len(alike) > 1:
        below = ([*row, title] for title in alike for row in filled[title][starts[title] + 1 :])
        rows = chain(filled[main][: starts[main]], [[*head, "Metadata_Sheet"]], below)
    names = " and ".join(map(repr, alike))
    n = len(sheets)
    return rows, [f"the Excel sheet{'s' * (len(alike) > 1)} {names}" + f" of {n}" * (n > 1)]


def _most_known_row(rows: list[list[str]]) -> int:
    """Return the place of the first row with most known columns: the header, or else the first."""
    return max(range(min(HEAD, len(rows))), key=lambda place: most_known([rows[place]]))


def _unmerged(rows: list[list[str]], merged: list[bytes], content: bytes) -> list[list[str]]:
    """Return rows in which all merged cells say what the first of them says.

    To the right that holds within a drawn plate only: elsewhere it is a title.
    """
    from openpyxl.utils import range_boundaries

    boxes = [range_boundaries(text.decode()) for text in merged]
    height, width = len(rows), len(rows[0]) if rows else 0
    boxes = [(x0, y0, min(x1, width), min(y1, height)) for x0, y0, x1, y1 in boxes]
    _refuse_bomb(
        sum(max(0, x1 - x0 + 1) * max(0, y1 - y0 + 1) for x0, y0, x1, y1 in boxes), content
    )
    for left, top, right, bottom in boxes:
        for cells in rows[top - 1 : bottom] if left <= width else []:
            before = next((cell for cell in cells[: left - 1] if cell), "")
            last = right if PLATE_ROW.fullmatch(before.strip()) else left
            for place in range(left - 1, last):
                cells[place] = cells[place] or rows[top - 1][left - 1]
    return rows


def _sheet(values: Iterable[Sequence[Any]], content: bytes) -> list[list[str]]:
    """Return the cells of a sheet as text, every row as wide as the widest."""
    rows: list[list[str]] = []
    width = 0
    for cells in values:
        rows.append([_cell(value) for value in cells])
        while rows[-1] and not rows[-1][-1]:
            rows[-1].pop()
        width = max(width, len(rows[-1]))
        if width > MAX_COLUMNS or len(rows) > MAX_ROWS:
            raise ValueError(f"expected at most {MAX_COLUMNS:,} columns and {MAX_ROWS:,} rows")
    _refuse_bomb(width * len(rows), content)
    return [cells + [""] * (width - len(cells)) for cells in rows] if width else []


def _cell(value: Any) -> str:
    """Return the text of a workbook's cell: whole numbers without point, days without time."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, datetime):
        return value.isoformat(" ").removesuffix(" 00:00:00")
    return "" if value is None else str(value)
