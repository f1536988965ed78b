"""What lacks images and is left out: plates not fetched, fields with one missing or damaged."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd

from mcnn_core.errors import InputError
from mcnn_core.readers.images import Picture, pictures, read_picture
from mcnn_core.screen import REQUIRED, Screen

#: Codes of what makes a field incomplete.
INCOMPLETE = ("file-missing", "file-unreadable")


def fault(error: InputError, picture: Picture) -> str:
    """Return the code of what is wrong with an image that raised `error`."""
    if not all(map(os.path.exists, picture.files)):
        return "file-missing"
    problem = error.what.removeprefix(picture.path)
    return "file-unreadable" if problem.startswith((": not a re", ": trunc")) else "file-unsuitable"


def leave_out(screen: Screen, workers: int = 8) -> tuple[Screen, pd.DataFrame]:
    """Return the fields all of whose images can be read, and what is wrong with the others.

    Every image is decoded, since a header says nothing of what follows it. One that is whole and of
    an unsuitable kind is no damage: its field stays.

    Parameters
    ----------
    screen : Screen
    workers : int
        Threads.

    Returns
    -------
    screen : Screen
    left : DataFrame
        A row per bad image: `REQUIRED`, ``channel``, ``file``, ``reason``.

    Raises
    ------
    InputError
        If no field is left.
    """

    def wrong(images: tuple[Picture, ...]) -> list[tuple[str, str, str]]:
        found = []
        for one, channel in zip(images, screen.channels, strict=True):
            try:
                read_picture(one)
            except InputError as error:
                if fault(error, one) in INCOMPLETE:
                    found.append((channel, one.path, error.what))
        return found

    with ThreadPoolExecutor(workers) as pool:
        faults = list(pool.map(wrong, pictures(screen)))
    names = screen.table[REQUIRED].itertuples(index=False)
    rows = [(*name, *one) for name, found in zip(names, faults, strict=True) for one in found]
    left = pd.DataFrame(rows, columns=[*REQUIRED, "channel", "file", "reason"])
    whole = [not found for found in faults]
    if not any(whole):
        raise InputError(f"{screen.name}: no field has all its images", left["reason"].tolist())
    return replace(screen, table=screen.table[whole].reset_index(drop=True)), left


def fetched(screen: Screen) -> tuple[Screen, list[str]]:
    """Return the plates of a screen that have been fetched, and the names of the others.

    A plate that has none of its images is not fetched; one that lacks some stays, and
    `mcnn_core.readers.images.check_headers` names them.

    Raises
    ------
    InputError
        If there is no image at all.
    """
    table, plates = screen.table, screen.table["Metadata_Plate"]
    found = {
        plate
        for channel in screen.channels
        for plate, folder, name in zip(
            plates, table[f"PathName_{channel}"], table[f"FileName_{channel}"], strict=True
        )
        if os.path.isfile(os.path.join(screen.root, folder, name))
    }
    if not found:
        raise InputError(
            f"{screen.root} holds no image of {screen.name}: fetch plates with make data "
            "SCREEN=bbbc021 DATA=DIR"
        )
    kept = table[plates.isin(found)].reset_index(drop=True)
    return replace(screen, table=kept), sorted(set(plates) - found)


def wells_lost(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Return the wells ("P1 B02") of which no field is left."""
    names, kept = (rows["Metadata_Plate"] + " " + rows["Metadata_Well"] for rows in (before, after))
    return sorted(set(names) - set(kept))
