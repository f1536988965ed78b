"""Screens by name: simulated, public, or a table of one's own."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcnn_book.simulate import bbbc021, cells, kimorph
from mcnn_book.simulate.field_statistics import field_statistics
from mcnn_core.errors import InputError
from mcnn_core.machine.files import write_table
from mcnn_core.readers.bbbc021 import BBBC021_CHANNELS, read_bbbc021
from mcnn_core.readers.imagehts import EMPTY, KIMORPH_FIELD, NEGATIVE, read_imagehts, read_wells
from mcnn_core.readers.images import read_field
from mcnn_core.readers.incomplete import fetched, leave_out, wells_lost
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.readers.reading import PLAIN, Reading
from mcnn_core.readers.tables import is_table
from mcnn_core.screen import Screen


def open_screen(
    name: str,
    data: str | os.PathLike,
    out: Path,
    seed: int = 0,
    layout: str = "default",
    height: int = 128,
    width: int = 160,
    taxol: str = "ljosa",
    workers: int = 2,
    reading: Reading = PLAIN,
) -> Screen:
    """Return the table of a screen; a simulated one is first written to ``out/screen``.

    Parameters
    ----------
    name : str
        ``"simulated"``, ``"bbbc021"``, ``"kimorph"``, or the path of a CellProfiler LoadData CSV.
    data : path
        Folder of the real screen, for ``"bbbc021"`` and ``"kimorph"``; plates that are not there
        are named and left out. Without it ``"kimorph"`` is simulated too.
    out : Path
        Output folder.
    seed, layout, height, width, workers
        Of the simulated screen (`mcnn_book.simulate.bbbc021.simulate_screen`,
        `mcnn_book.simulate.kimorph.simulate_kimorph`).
    reading : Reading
        How a table is to be read.
    taxol : {"ljosa", "all"}
        Which taxol wells count as annotated (`mcnn_core.readers.bbbc021.read_bbbc021`).

    Raises
    ------
    InputError
        If there is no such screen or layout, the screen's own tables are wrong, or none of its
        plates has been fetched.
    """
    if name == "simulated" or (name == "kimorph" and not str(data)):
        module, write = (
            (bbbc021, bbbc021.simulate_screen)
            if name == "simulated"
            else (kimorph, kimorph.simulate_kimorph)
        )
        if layout not in module.LAYOUTS:
            raise InputError(
                f"layout must be one of {', '.join(module.LAYOUTS)}", [f"layout {layout!r}"]
            )
        folder = Path(out) / "screen"
        write(folder, seed, module.LAYOUTS[layout], height, width, workers=workers)
        screen = (
            read_bbbc021(folder, taxol, simulated=True)
            if name == "simulated"
            else read_imagehts(folder, simulated=True)
        )
        return dataclasses.replace(
            screen,
            name=f"the simulated {'screen' if name == 'simulated' else 'KiMorph'} (seed {seed})",
        )
    if name in ("bbbc021", "kimorph"):
        screen, absent = fetched(
            read_bbbc021(data, taxol)
            if name == "bbbc021"
            else _real_kimorph(Path(data), reading.negative or NEGATIVE)
        )
        if absent:
            print(
                f"{len(absent)} plates of {screen.name} are not in {screen.root} and are left out: "
                f"{', '.join(absent)}"
            )
        return screen
    if is_table(name):
        return _complete(read_loaddata(name, reading=reading), Path(out))
    raise InputError(
        "a screen is simulated, bbbc021, kimorph, or the path of a LoadData .csv",
        [f"screen {name!r}"],
    )


def _complete(screen: Screen, out: Path) -> Screen:
    """Leave out what lacks an image, if that is how it is read, and list it in ``left_out.csv``."""
    if screen.reading.incomplete != "leave-out":
        return screen
    rest, left = leave_out(screen)
    write_table(out / "left_out.csv", left)
    lost = wells_lost(screen.table, rest.table)
    print(
        f"{len(screen.table) - len(rest.table):,} of {len(screen.table):,} fields lack an image or "
        f"have a damaged one and are left out; {out / 'left_out.csv'} lists them. Wells that have "
        f"no other: {', '.join(lost) or 'none'}"
    )
    return rest


def _real_kimorph(data: Path, negative: Sequence[str]) -> Screen:
    """Read KiMorph from `data` and say how many wells are left out."""
    wells = read_wells(data, negative=negative)
    empty = wells["content"] == EMPTY
    print(
        f"{len(wells)} wells: {empty.sum()} are empty and {(wells['failed'] & ~empty).sum()} "
        "failed; they are left out"
    )
    return read_imagehts(data, KIMORPH_FIELD, negative=negative)


def pixel_size(screen: Screen, height: int, bin: int = 1) -> float | None:
    """Return um per pixel where it is known, for fields of `height` raw pixels.

    It is known of simulated screens and of BBBC021.
    """
    if screen.simulated:
        return cells.pixel_size(height) * bin
    return cells.MICROSCOPE_PIXEL * bin if screen.name == "BBBC021" else None


def field_scale(screen: Screen, store: Any) -> float | None:
    """Return um per pixel of the fields in a store, None where it is unknown."""
    bin = store.manifest["bin"]
    return pixel_size(screen, store.manifest["field"][0] * bin, bin)


def stretched(screen: Screen, row: int) -> np.ndarray:
    """Return a raw field as (H, W, C) uint8, for looking at.

    Each channel is scaled between its own 0.5 and 99.8 percentiles.
    """
    field = read_field(screen, row).astype(np.float32)
    low, high = np.percentile(field, (0.5, 99.8), axis=(0, 1))
    return (np.clip((field - low) / np.maximum(high - low, 1), 0, 1) * 255).astype(np.uint8)


def control_statistics(screen: Screen, height: int, most: int = 60) -> dict[str, Any] | None:
    """Return `mcnn_book.simulate.field_statistics.field_statistics` of raw negative controls.

    They are `height` pixels high. None where the real cells of BBBC021 are no yardstick: for any
    other screen, real or simulated.
    """
    if screen.channels != tuple(BBBC021_CHANNELS):
        return None
    pixel, controls = (
        pixel_size(screen, height),
        np.flatnonzero(screen.table["Metadata_control_type"] == "negcon")[:most],
    )
    return (
        field_statistics(np.stack([read_field(screen, row) for row in controls]), pixel)
        if pixel and len(controls)
        else None
    )
