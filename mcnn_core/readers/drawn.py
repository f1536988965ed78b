"""Plate maps that are drawn as the plate is: letters before the rows, numbers above the columns."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mcnn_core.errors import Problem
from mcnn_core.readers.spelling import HEAD, PLATE_ROW, known_column, most_known, note

#: The number of a column of a plate.
NUMBER = re.compile(r"0*([1-9]|[1-3]\d|4[0-8])(\.0*)?")

#: What stands in the corner of a drawing and says nothing.
CORNER = re.compile(r"\W*|rows?|col(umn)?s?|wells?|rows?\W*col(umn)?s?", re.IGNORECASE)


#: What stands before the name of a plate.
OF_PLATE = re.compile(r"^(plate|barcode)([ _](id|name))?\s*[:=]\s*", re.IGNORECASE)


class Drawing(NamedTuple):
    """A plate as it is drawn: its name, sheet and line, and the line and cell of each well."""

    label: str
    sheet: str
    line: int
    wells: dict[str, tuple[int, str]]


def _runs(cells: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
    """Yield where the numbers of columns begin in a row, and those that follow one another."""
    found = [NUMBER.fullmatch(cell.strip()) for cell in cells]
    numbers = [int(one[1]) if one else 0 for one in found]
    start = 1
    while start < len(numbers):
        stop = start + 1
        while numbers[start] and stop < len(numbers) and numbers[stop] == numbers[stop - 1] + 1:
            stop += 1
        if stop - start > 1 and not PLATE_ROW.fullmatch(cells[start - 1].strip()):
            yield start, numbers[start:stop]
        start = stop


def _heads_a_list(cells: Sequence[str]) -> bool:
    """Whether a row names columns of a list: two, or one where others are numbers."""
    corners = {start - 1 for start, _ in _runs(cells)}
    names = [cell for place, cell in enumerate(cells) if place not in corners]
    return most_known([names]) >= (1 if corners else 2)


def _drawings(sheet: str, rows: Sequence[Sequence[str]]) -> Iterator[Drawing]:
    """Yield every plate that is drawn in a sheet."""
    above = ""
    for line, cells in enumerate(rows):
        for start, numbers in _runs(cells):
            wells: dict[str, tuple[int, str]] = {}
            for place in range(line + 1, len(rows)):
                if not any(rows[place]):
                    continue
                letters = "".join(rows[place][start - 1 : start]).strip().upper()
                if not PLATE_ROW.fullmatch(letters) or f"{letters}{numbers[0]:02d}" in wells:
                    break
                texts = rows[place][start : start + len(numbers)]
                row = zip(numbers, texts, strict=False)
                wells |= {f"{letters}{n:02d}": (place, text) for n, text in row if text.strip()}
            if wells:
                corner = cells[start - 1].strip()
                label = above if CORNER.fullmatch(corner) else corner
                yield Drawing(OF_PLATE.sub("", label) or sheet, sheet, line, wells)
        filled = [cell.strip() for cell in cells if cell.strip()]
        if filled:
            alone = len(filled) == 1 and not PLATE_ROW.fullmatch(filled[0])
            above = filled[0] if alone else ""


def _column(label: str) -> str:
    """Return a name under which a column is known, "" if a label is none."""
    return next((name for name in (label, label.rstrip("s")) if known_column(name)), "")


def drawn_plates(
    path: Path, sheets: dict[str, list[list[str]]]
) -> tuple[pd.DataFrame, list[Problem]] | None:
    """Read a plate map that is drawn, in one sheet or several; None where nothing is drawn.

    A drawing is named by the cell in its corner, the line above or its sheet. The name says what
    the wells hold ("Compound", "Dose (uM)"); any other is that of a plate, if there are several.

    Parameters
    ----------
    path : Path
        For messages.
    sheets : dict of lists of str
        The cells of each sheet by its name, as `mcnn_core.readers.tables.read_sheets` returns them.

    Returns
    -------
    rows : DataFrame
        A row per filled well, and plate if there are several: text.
    problems : list of Problem
    """
    found = [
        drawing
        for sheet, rows in sheets.items()
        if not any(map(_heads_a_list, rows[:HEAD]))
        for drawing in _drawings(sheet, rows)
    ]
    if not found:
        return None
    named = _named(found)
    problems = _unclear(path, named)
    cells = pd.DataFrame(
        [
            (plate, well, column, line, text)
            for plate, column, one in named
            for well, (line, text) in one.wells.items()
        ],
        columns=["Plate", "Well", "column", "line", "text"],
    )
    plates = list(dict.fromkeys(plate for plate, _, _ in named if plate))
    by = ["Plate", "Well"] if plates else ["Well"]
    rows = cells.pivot_table("text", by, "column", aggfunc="first").fillna("")
    rows = rows.reset_index().rename_axis(columns=None)
    rows.index = cells.groupby(by)["line"].min().to_numpy()
    columns = " and ".join(dict.fromkeys(column for _, column, _ in named))
    text = f"drawn plates: {len(found)}, read as {columns} of each well of "
    text += ", ".join(plates) or "every plate"
    return rows, [*problems, note(path, text, "table-read-as")]


def _named(found: Sequence[Drawing]) -> list[tuple[str, str, Drawing]]:
    """Return the plate ("" for all) of each drawing, and the column that its wells hold."""
    several = len({one.sheet for one in found}) > 1
    others = [one.label for one in found if not _column(one.label)]
    named = []
    for one in found:
        column = _column(one.label)
        of_sheet = column or len({*others}) < len(others)  # or the label is that of the plate
        plate = one.sheet * several if of_sheet else one.label
        named.append(("" if _column(plate) else plate, column or "Compound", one))
    alone = len({plate for plate, _, _ in named if plate}) < 2
    return [("" if alone else plate, column, one) for plate, column, one in named]


def _unclear(path: Path, named: Sequence[tuple[str, str, Drawing]]) -> list[Problem]:
    """Return an error for each drawing whose name does not tell it from the others."""
    places = [(plate, column) for plate, column, _ in named]
    plates = {plate for plate, _ in places}
    text = (
        "expected drawn plates to be named by what they hold, as Compound or Dose (uM), or by "
        "their plates, in the corner or the line above, got "
    )
    return [
        Problem(
            f"{path}, line {one.line + 1}: {text}{one.label!r}",
            "map-unreadable",
            str(path),
            one.line + 1,
        )
        for plate, column, one in named
        if places.count((plate, column)) > 1 or (not plate and len(plates) > 1)
    ]
