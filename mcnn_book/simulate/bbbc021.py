"""A simulated screen on disk, in BBBC021's own file layout, with known truth.

The layout holds facts of BBBC021, the cells come from `mcnn_book.simulate.cells`. Nothing in the
analysis reads ``truth.csv``.
"""

import multiprocessing
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from mcnn_book.simulate.cells import (
    PARAMETERS,
    Compound,
    conditions,
    draw_compound,
    field,
    generator,
    hill_response,
    microscope,
)
from mcnn_core.analysis.position import places
from mcnn_core.machine.files import atomic

# --------------------------------------------------------------------------- layout

DMSO_WELLS = ("B02", "C02", "D02", "E11", "F11", "G11")


TAXOL_WELLS = ("B11", "C11", "D11", "E02", "F02", "G02")


CHANNELS = {"DAPI": 1, "Actin": 4, "Tubulin": 2}  # channel: filter number in BBBC021's file names


@dataclass(frozen=True)
class Layout:
    """Which compounds stand in which wells, and how often.

    Attributes
    ----------
    compounds : DataFrame
        One row per compound: ``week``, ``layout`` (number within the week),
        ``replicates`` (plates), ``row`` of the plate, ``compound``, ``moa`` (printed in the
        annotation), ``mechanism`` (acting), ``doses`` (uM, columns 03 to 10 of the plate),
        ``annotated`` (uM). Weeks, rows, doses and annotated doses of the 38 annotated
        compounds are BBBC021's; the SX compounds are invented.
    columns : tuple of int
        Plate columns used of 03 to 10.
    controls : int
        Wells of DMSO per plate, and of taxol 0.3 uM.
    sites : int
        Fields of view per well.
    place : str
        Where the plates have dried, the same on all: ``"row"`` or ``"column"``, more and more from
        the first to the last, or ``"edge"``; ``""``, nowhere.
    """

    compounds: pd.DataFrame
    columns: tuple[int, ...] = tuple(range(3, 11))
    controls: int = 6
    sites: int = 4
    place: str = ""

    def wells(self) -> pd.DataFrame:
        """Return one row per well.

        Columns: plate, week, replicate, well, compound, concentration (uM), mechanism; with a
        `place` also drift, how dry the well is, 0 to 1.
        """
        rows = []
        for (week, number, replicates), group in self.compounds.groupby(
            ["week", "layout", "replicates"]
        ):
            for replicate in range(1, replicates + 1):
                plate = {
                    "week": f"Week{week}",
                    "plate": f"Week{week}_{20000 + 1000 * week + 100 * number + replicate}",
                    "replicate": replicate,
                }
                for wells, compound, dose, mechanism in (
                    (DMSO_WELLS, "DMSO", 0.0, ""),
                    (TAXOL_WELLS, "taxol", 0.3, "Microtubule stabilizers"),
                ):
                    rows += [
                        {
                            **plate,
                            "well": well,
                            "compound": compound,
                            "concentration": dose,
                            "mechanism": mechanism,
                        }
                        for well in wells[: self.controls]
                    ]
                rows += [
                    {
                        **plate,
                        "well": f"{one.row}{column:02d}",
                        "compound": one.compound,
                        "concentration": one.doses[column - 3],
                        "mechanism": one.mechanism,
                    }
                    for one in group.itertuples()
                    for column in self.columns
                ]
        wells = pd.DataFrame(rows).sort_values(["plate", "well"], ignore_index=True)
        if self.place:
            rank = places(wells.rename(columns={"well": "Metadata_Well"}))[self.place].astype(float)
            wells["drift"] = (rank - rank.min()) / (rank.max() - rank.min())
        return wells

    def annotation(self) -> pd.DataFrame:
        """Return the annotated treatments: compound, concentration (uM), moa.

        DMSO is a class of its own.
        """
        rows = [
            (one.compound, dose, one.moa)
            for one in self.compounds.itertuples()
            for dose in one.annotated
            if dose in [one.doses[column - 3] for column in self.columns]
        ]
        return pd.DataFrame(
            [*rows, ("DMSO", 0.0, "DMSO")], columns=["compound", "concentration", "moa"]
        )


def _layouts() -> dict[str, Layout]:
    """Return the layouts by name.

    All 54 compounds; or 128 fields, seven compounds of five mechanisms and an unannotated one.
    """
    table = pd.read_csv(Path(__file__).with_name("layout.csv"), keep_default_na=False)
    for column in ("doses", "annotated"):
        table[column] = [tuple(float(dose) for dose in text.split()) for text in table[column]]
    few = table["compound"].isin(
        ["nocodazole", "AZ-A", "cytochalasin B", "taxol", "AZ841", "vincristine", "AZ-C", "SX-09"]
    )
    return {
        "default": Layout(table),
        "tiny": Layout(table[few].assign(replicates=2), columns=(4, 5, 6), controls=2, sites=2),
    }


LAYOUTS = _layouts()


def _write_well(task: tuple) -> list[dict]:
    """Draw and write the fields of one well; return the rows of the image table."""
    folder, seed, well, compound, sites, height, width = task
    rows, where = [], f"{well['week']}/{well['plate']}"
    (Path(folder) / where).mkdir(parents=True, exist_ok=True)
    for site in range(1, sites + 1):
        image = field(seed, well, compound, site, height, width)
        rng = generator(seed, "names", well["plate"], well["well"], site)
        row: dict[str, Any] = {}
        for (channel, number), pixels in zip(CHANNELS.items(), image, strict=True):
            identifier = str(uuid.UUID(bytes=rng.bytes(16))).upper()  # as in BBBC021's file names
            name = f"{well['well']}_s{site}_w{number}{identifier}.tif"
            tifffile.imwrite(Path(folder) / where / name, pixels, metadata=None)
            row |= {f"Image_FileName_{channel}": name, f"Image_PathName_{channel}": where}
        rows.append(
            row
            | {
                "Image_Metadata_Plate_DAPI": well["plate"],
                "Image_Metadata_Well_DAPI": well["well"],
                "Replicate": well["replicate"],
                "Image_Metadata_Compound": well["compound"],
                "Image_Metadata_Concentration": f"{well['concentration']:.6f}",
            }
        )
    return rows


@contextmanager
def _deaf() -> Iterator[None]:
    """Have processes that start in the block hear no Ctrl-C.

    A terminal sends it to all, and each would print a traceback.
    """
    resource_tracker.ensure_running()  # started later, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def draw_wells(
    write: Callable[[tuple], Any], tasks: list[tuple], workers: int, progress: bool
) -> list:
    """Return what `write` makes of each well's task, in order.

    It is made by so many processes, with a progress bar.
    """
    # One thread each: products of small matrices gain nothing from two, which wait for each other
    # busily.
    with _deaf():
        many = (
            multiprocessing.get_context("spawn").Pool(workers, threadpool_limits, (1,))
            if workers > 1
            else nullcontext()
        )
    with threadpool_limits(1), many as pool:
        running = pool.imap(write, tasks, chunksize=4) if pool else map(write, tasks)
        return list(
            tqdm(running, total=len(tasks), desc="simulate", unit="well", disable=not progress)
        )


def truth_table(seed: int, layout: Layout) -> tuple[pd.DataFrame, dict[str, Compound]]:
    """Return what really acts in each well, and the compounds of this world.

    Returns
    -------
    DataFrame
        One row per well: plate, well, compound, concentration, mechanism, response, ec50, hill,
        penetrance, planted ("" , "wrong label", "hidden mechanism", "known mechanism" or
        "inactive").
    dict of str to Compound
    """
    facts = layout.compounds
    if "taxol" not in set(facts["compound"]):
        raise ValueError("a layout needs taxol, its positive control")
    compounds = {
        one.compound: draw_compound(seed, one.compound, one.mechanism, one.doses, one.annotated)
        for one in facts.itertuples()
    }
    compounds["DMSO"] = Compound(
        np.zeros(len(PARAMETERS)), np.zeros(len(PARAMETERS)), 1.0, 1.0, 0.0
    )
    known = set(facts["moa"]) - {""}
    planted = {
        one.compound: ""
        if one.moa == one.mechanism
        else "wrong label"
        if one.moa
        else "inactive"
        if one.mechanism == "Inactive"
        else "known mechanism"
        if one.mechanism in known
        else "hidden mechanism"
        for one in facts.itertuples()
    }
    wells = layout.wells()
    for name in ("ec50", "hill", "penetrance"):
        wells[name] = [getattr(compounds[one], name) for one in wells["compound"]]
    wells["response"] = [
        hill_response(one.concentration, one.ec50, one.hill) for one in wells.itertuples()
    ]
    wells["planted"] = wells["compound"].map(planted).fillna("")
    return wells, compounds


def simulate_screen(
    folder: str | Path,
    seed: int,
    layout: Layout = LAYOUTS["default"],
    height: int = 128,
    width: int = 160,
    workers: int = 2,
    progress: bool = True,
) -> None:
    """Write a screen: TIFFs, ``BBBC021_v1_image.csv``, ``BBBC021_v1_moa.csv`` and ``truth.csv``.

    ``light.csv`` is the truth about the lamp of each field, by its first file: the fall-off towards
    the corners and the slopes (`mcnn_book.simulate.cells.lamp_of`). The folder appears when the
    screen is complete, or not at all.

    Parameters
    ----------
    folder : path
        Absent, empty, or one that this function has made, which is replaced; what others have put
        into it stays.
    seed : int
        Same seed, same bytes, whatever the number of workers.
    layout : Layout
    height, width : int
        Pixels per field.
    workers : int
        Processes.
    progress : bool
    """
    wells, compounds = truth_table(seed, layout)
    with atomic(folder, "simulated BBBC021") as temporary:
        temporary.mkdir(parents=True)
        tasks = [
            (str(temporary), seed, well, compounds[well["compound"]], layout.sites, height, width)
            for well in wells.to_dict("records")
        ]
        done = draw_wells(_write_well, tasks, workers, progress)
        images = pd.DataFrame([row for rows in done for row in rows])
        plates = {plate: number for number, plate in enumerate(sorted(wells["plate"].unique()), 1)}
        images.insert(0, "TableNumber", images["Image_Metadata_Plate_DAPI"].map(plates))
        images.insert(1, "ImageNumber", range(1, len(images) + 1))
        names = [
            f"Image_{part}Name_{channel}"
            for channel in ("DAPI", "Tubulin", "Actin")
            for part in ("File", "Path")
        ]
        images = images[["TableNumber", "ImageNumber", *names, *images.columns[8:]]]
        images.to_csv(temporary / "BBBC021_v1_image.csv", index=False)
        annotation = layout.annotation().assign(
            concentration=lambda t: [f"{value:g}" for value in t["concentration"]]
        )
        text = annotation.to_csv(index=False, lineterminator="\r")
        (temporary / "BBBC021_v1_moa.csv").write_bytes(text.rstrip("\r").encode())
        wells.to_csv(temporary / "truth.csv", index=False)
        lights = [
            microscope(conditions(seed, well, site))
            for well in wells.to_dict("records")
            for site in range(1, layout.sites + 1)
        ]
        light = pd.DataFrame(lights)[["vignetting", "slope_x", "slope_y"]]
        light.insert(0, "file", images["Image_FileName_DAPI"])
        light.to_csv(temporary / "light.csv", index=False)
