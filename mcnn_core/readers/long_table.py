"""Tables with a row per image, in which a column names the channel: each field gets one row."""

from pathlib import Path

import pandas as pd

from mcnn_core.columns import channels_in
from mcnn_core.errors import Problem
from mcnn_core.readers.planes import PLANE, TIME
from mcnn_core.readers.spelling import key, note
from mcnn_core.screen import REQUIRED

#: What a column of channels is called, as `key` returns it, the one to be taken first.
_CHANNEL = (
    "channelname channellabel channel chname ch imagechannel stain dye fluorophore fluorochrome "
    "marker kanal channelid channelnumber channelindex wavelength wave wavename filter"
)
CHANNEL = tuple(_CHANNEL.split())

#: What a column is called that says which page of its file an image is.
PAGE = ("frame", "page", "pageindex", "series")


def widened(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Return one row per field of a table that has one per image, and what is to be said.

    Parameters
    ----------
    path : Path
        For messages.
    rows : DataFrame
        Text cells under the names of `mcnn_core.readers.spelling.canonical`. Others come back as
        they are: those with several channels already, and those in which no column tells the rows
        of every field apart.

    Returns
    -------
    rows : DataFrame
        With the index of the first row of each field.
    problems : list of Problem
    """
    field, images = [name for name in REQUIRED if name in rows], channels_in(rows)
    names = [name for name in rows if key(name) in CHANNEL]
    if len(images) != 1 or not field or not rows.duplicated(field).any():
        return rows, []
    for name in sorted(names, key=lambda name: CHANNEL.index(key(name))):
        same = rows.groupby([*field, name])
        parts = [one for one in rows if PLANE.fullmatch(one) or TIME.fullmatch(one)]
        keys = [*field, *(one for one in parts if one != name and same[one].nunique().max() > 1)]
        apart = not rows.duplicated([*keys, name]).any() and (rows[name] != "").all()
        if apart and rows.duplicated(keys).any():
            return _pivoted(path, rows, keys, name, images[0])
    return rows, []


def _pivoted(
    path: Path, rows: pd.DataFrame, keys: list[str], name: str, image: str
) -> tuple[pd.DataFrame, list[Problem]]:
    """Put the images of rows that agree in `keys` beside each other, by the channel in `name`."""
    first = pd.Series(rows.index, rows.index).groupby([rows[one] for one in keys]).transform("min")
    pages = [one for one in rows if key(one) in PAGE and one not in keys]
    images = {f"{part}_{image}": part for part in ("FileName", "PathName", "Frame")}
    images |= dict.fromkeys(pages[:1], "Frame")
    images = {one: part for one, part in images.items() if one in rows}
    others = [one for one in rows if one not in images and one != name]
    varying = [one for one in others if (rows[one] != rows[one].loc[first].to_numpy()).any()]
    wide = rows.loc[sorted(first.unique()), [one for one in others if one not in varying]]
    channels = list(dict.fromkeys(rows[name]))
    cells = {
        f"{part}_{channel}": rows.loc[rows[name] == channel, one]
        for channel in channels
        for one, part in images.items()
    }
    beside = {
        column: part.set_axis(first[part.index]).reindex(wide.index, fill_value="")
        for column, part in cells.items()
    }
    text = f"{name} names the channel of each row: {len(rows):,} rows are {len(wide):,} fields with"
    text += f" channels {', '.join(channels)}"
    text += f"; not copied, as they differ by channel: {', '.join(varying)}" * bool(varying)
    return wide.assign(**beside), [note(path, text, "column-taken", name)]


def without_copies(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Leave out every row that is a copy of another, and say which."""
    copies = rows.duplicated()
    if not copies.any():
        return rows, []
    lines = [str(line + 1) for line in rows.index[copies]]
    text = f"line {', '.join(lines[:10])}{' …' * (len(lines) > 10)}: copies of other lines count "
    return rows[~copies], [note(path, f"{text}once ({len(lines):,})", "row-twice")]
