"""Raw counts to 8 bit: Anscombe transform, histogram normalisation per plate, one store per screen.

The paper transforms counts by 2 sqrt(x + 3/8) (Anscombe 1948, Biometrika 35, 246), normalises
histograms per plate and keeps 8 bit; it does not say which reference the histogram is brought to.
Both of `REFERENCES` are affine maps of the transformed counts, so that one look-up table per plate
and channel does all. The work is cut into blocks of fields, which any thread or machine may do
(`mcnn_core.machine.scheduler`).
"""

import errno
import hashlib
import math
import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from mcnn_core.errors import InputError
from mcnn_core.illumination import (
    ILLUMINATIONS,
    divided,
    given_functions,
    plate_function,
    read_function,
)
from mcnn_core.machine.files import (
    claim,
    discard,
    exclusive,
    is_ours,
    naming,
    put,
    read_json,
    refuse_foreign,
    remove_leftovers,
    sha256,
    take,
    write_array,
    write_json,
)
from mcnn_core.machine.scheduler import Stage, pool, software
from mcnn_core.readers.images import Picture, check_headers, describe, pictures, read_image, stamp
from mcnn_core.screen import Screen
from mcnn_core.store import Block, Store, altered_blocks, block_rows, identity, map_pixels

#: Values that a 16-bit count can have.
COUNTS = 65_536

#: Rows that are counted or mapped together: what they need fits a core's cache.
ROWS_AT_ONCE = 64

#: Fields that are counted, written and hashed together: of full size 63 MB, a third of a second.
BLOCK = 16

#: Percent of a plate's pixels that "plate-percentile" maps to 0 and to 255.
PERCENTILES = (0.1, 99.9)

#: Standard deviations from the mean of the plate's DMSO pixels that "dmso" maps to 0 and to 255.
#: On real fields 0.1 % of pixels lie below -1.3 and 0.1 % above +3.3 to +7.5.
Z_RANGE = (-2.0, 8.0)

#: Pixels of a field after `auto_bin`, for screens of up to 2,000 fields; and its least for larger
#: screens.
PIXELS, FEWEST_PIXELS, MANY_FIELDS = 40_960, 20_480, 2_000

Finding = tuple[int, int, str]  # row of the table, number of the channel, what is found
# Histograms of a block, what is wrong with which image, and which images are constant.
Counts = tuple[np.ndarray, set[Finding], list[Finding]]


def anscombe(counts: np.ndarray) -> np.ndarray:
    """Return 2 sqrt(x + 3/8): Poisson counts of any mean get a variance near 1."""
    return 2 * np.sqrt(np.asarray(counts, dtype=float) + 0.375)


def histogram_percentiles(histogram: np.ndarray, percent: tuple[float, ...]) -> np.ndarray:
    """Return percentiles of the Anscombe values behind a histogram (65536,) of counts.

    Equal to ``np.percentile(anscombe(x), percent)``: the transform keeps the order of the
    pixels, so ranks are found on counts and only the neighbouring values are transformed.
    """
    cumulated = np.cumsum(histogram)
    rank = np.asarray(percent) / 100 * (cumulated[-1] - 1)
    below, above = (
        anscombe(np.searchsorted(cumulated, edge, side="right"))
        for edge in (np.floor(rank), np.ceil(rank))
    )
    return below + (above - below) * (rank - np.floor(rank))


def _z_limits(histogram: np.ndarray) -> np.ndarray:
    values = anscombe(np.arange(COUNTS))
    mean = np.average(values, weights=histogram)
    return mean + np.array(Z_RANGE) * math.sqrt(np.average((values - mean) ** 2, weights=histogram))


#: What a plate's histogram is brought to: from the counts (65536,) of its fields, or of its
#: negative controls, to the two Anscombe values that become 0 and 255.
REFERENCES = {
    "plate-percentile": lambda histogram: histogram_percentiles(histogram, PERCENTILES),
    "dmso": _z_limits,
}


def auto_bin(shape: tuple[int, int], n_fields: int) -> int:
    """Return the smallest bin that keeps a field within a budget of pixels.

    The rule is ours, not the paper's. 40,960 pixels (two of 128 x 160) up to 2,000 fields: two
    cores train 80 epochs on such a screen in some 6 minutes, so that a report ends within 30.
    Beyond 2,000 fields the budget falls with their number, down to 20,480 (128 x 160).
    """
    budget = max(FEWEST_PIXELS, PIXELS * min(1.0, MANY_FIELDS / n_fields))
    return next(b for b in count(1) if (shape[0] // b) * (shape[1] // b) <= budget)


def bin_counts(image: np.ndarray, size: int) -> np.ndarray:
    """Return the mean count of each `size` x `size` block, rounded.

    Incomplete blocks at the end are left out. Counts are averaged before the Anscombe transform, as
    a camera bins on its chip: the sum of Poisson counts is Poisson, the sum of their roots is not.
    """
    if size == 1:
        return image
    height, width, area = image.shape[0] // size, image.shape[1] // size, size * size
    blocks = image[: height * size, : width * size].reshape(height, size, width, size)
    return ((blocks.sum(axis=(1, 3), dtype=np.uint64) + area // 2) // area).astype(np.uint16)


def padding(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return how many rows (bottom) and columns (right) make both sides multiples of `multiple`."""
    return -shape[0] % multiple, -shape[1] % multiple


@dataclass(frozen=True)
class Conversion:
    """How raw counts become 8 bit.

    Attributes
    ----------
    reference : {"plate-percentile", "dmso"}
        Name in `REFERENCES`.
    bin : int
        Side of the blocks of raw counts that are averaged first; see `auto_bin`.
    multiple : int
        Fields are padded at the bottom and right, by reflection, to multiples of this.
    illumination : {"none", "plate", "given"}
        What the averaged counts are divided by (`mcnn_core.illumination`).

    Raises
    ------
    InputError
        If one of them is none of these.
    """

    reference: str = "plate-percentile"
    bin: int = 1
    multiple: int = 32
    illumination: str = "none"

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        known = self.reference in REFERENCES and self.illumination in ILLUMINATIONS
        if not known or min(self.bin, self.multiple) < 1:
            raise InputError(
                f"expected reference {' or '.join(REFERENCES)}, illumination "
                f"{' or '.join(ILLUMINATIONS)}, bin and multiple of 1 or more, got {self}"
            )


def preprocess(
    screen: Screen,
    folder: str | os.PathLike,
    conversion: Conversion = Conversion(),
    workers: int | str = 2,
    progress: bool = True,
) -> Store:
    """Write the 8-bit store of a screen and open it.

    Each plate is read twice, to count its pixels and to map them, and once more before that where
    its own light is divided out. Memory does not grow with the number of fields. `folder` appears
    when it is complete. Until then the pixels lie in the hidden folder ``.NAME.work`` next to it,
    with one whole file for every finished plate: a run that was killed resumes there. An image with
    a single grey value, as of a dead well, is kept, and a line of output names it.

    Parameters
    ----------
    screen : Screen
    folder : path
    conversion : Conversion
    workers : int or str
        Threads that share the blocks of fields, or the address of a cluster's scheduler
        (`mcnn_core.machine.scheduler`); the result does not depend on it.
    progress : bool
        Whether to show a bar.

    Raises
    ------
    InputError
        With every unusable image or illumination function, every plate without negative controls
        where they are the reference, every plate whose reference has no spread, and every file that
        was changed while the screen was read; if another run is writing the same store; and what
        `mcnn_core.machine.scheduler.pool` raises.
    """
    if isinstance(workers, int) and workers < 1:
        raise InputError(f"expected 1 worker or more, got {workers}")
    plan, folder = _plan(screen, conversion), Path(folder).resolve()
    refuse_foreign(folder, "store")
    hidden = folder.with_name(f".{folder.name}.work")
    claim(hidden, "store in the making")
    with exclusive(hidden):
        remove_leftovers(folder)
        making = _Making(plan, hidden)
        making.fill(workers, progress)
        making.check()
        making.write_manifest()
        put(making.folder, folder, "store")
        discard(hidden)
    return Store.open(folder)


@dataclass(frozen=True)
class _Plan:
    """What is to be made, of what."""

    screen: Screen
    how: Conversion
    raw: tuple[int, int]  #: height and width of a field in its file
    extra: tuple[int, int]  #: rows and columns of padding
    counted: np.ndarray  #: (n,) bool: fields whose pixels set the limits of their plate
    images: list[tuple[Picture, ...]]  #: of each field
    functions: dict[str, list[str]]  #: paths of given illumination functions, by plate
    stamps: dict[str, tuple[int, int] | None]  #: size and time of change of each file
    blocks: dict[str, list[Block]]  #: by plate

    @property
    def field(self) -> tuple[int, int]:
        """Height and width after binning."""
        return self.raw[0] // self.how.bin, self.raw[1] // self.how.bin

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the store."""
        height, width = np.add(self.field, self.extra).tolist()
        return len(self.images), height, width, len(self.screen.channels)

    def identity(self) -> str:
        """Return the SHA-256 of all that the store follows from but the contents of the files."""
        digest = hashlib.sha256(self.counted.tobytes())
        facts = (software(), self.how, self.shape, self.screen.channels)
        for part in (*facts, self.functions, self.blocks, *self.images, *self.stamps.items()):
            digest.update(repr(part).encode())
        return digest.hexdigest()


def _plan(screen: Screen, how: Conversion) -> _Plan:
    """Check a screen by its table and the headers of its images, and plan its store."""
    height, width = raw = check_headers(screen)
    if min(raw) < how.bin:
        raise InputError(f"bin={how.bin} is larger than a field of {height} x {width} pixels")
    plates, controls = (screen.table[f"Metadata_{key}"] for key in ("Plate", "control_type"))
    counted = (controls == "negcon").to_numpy() | (how.reference != "dmso")
    usable = pd.Series(counted).groupby(plates.to_numpy(), sort=False).any()
    if not usable.all():
        raise InputError(
            f"reference {how.reference!r} needs fields with Metadata_control_type negcon on every "
            "plate; name them or take plate-percentile",
            [f"plate {plate}" for plate in usable.index[~usable]],
        )
    functions = given_functions(screen, raw) if how.illumination == "given" else {}
    images = pictures(screen)
    files = [path for field in images for one in field for path in one.files]
    stamps = {path: stamp(path) for path in chain(files, *functions.values())}
    extra = padding((height // how.bin, width // how.bin), how.multiple)
    return _Plan(screen, how, raw, extra, counted, images, functions, stamps, _blocks(plates))


def _blocks(plates: pd.Series) -> dict[str, list[Block]]:
    """Cut rows into blocks of up to `BLOCK` that lie together and on one plate, by plate."""
    blocks: dict[str, list[Block]] = {}
    edges = np.flatnonzero((plates != plates.shift()).to_numpy()).tolist()
    for start, stop in pairwise([*edges, len(plates)]):
        blocks.setdefault(plates.iat[start], []).extend(
            {"plate": plates.iat[start], "first": first, "fields": min(BLOCK, stop - first)}
            for first in range(start, stop, BLOCK)
        )
    return blocks


class _Making:
    """A store in the making, in the hidden folder next to the place where it belongs.

    The pixels are written into a folder of it that is named after the plan: a worker that a killed
    run has left behind cannot write into those of another plan. A plate that is finished has a
    whole file with its limits and the SHA-256 of what was written, which a run that resumes
    compares.
    """

    def __init__(self, plan: _Plan, hidden: Path):
        self.plan, self.hidden, name = plan, hidden, plan.identity()[:16]
        self.folder = hidden / name
        self.notes = {plate: hidden / f"{name}-{n}.json" for n, plate in enumerate(plan.blocks)}
        self.finished: dict[str, dict[str, Any]] = {}  # what the notes hold, by plate
        self.problems: set[Finding] = set()
        self.constant: list[Finding] = []
        self.flat: list[str] = []  # references without spread
        for other in hidden.iterdir():
            if other.is_dir() and other != self.folder and is_ours(other):
                discard(other)
        claim(self.folder, "store")
        self.pixels = self.folder / "pixels.npy"
        take(self.pixels)
        try:
            mapped = map_pixels(self.folder, plan.shape)
        except InputError:  # none yet, or damaged
            with naming(self.pixels):
                mapped = np.lib.format.open_memmap(self.pixels, "w+", np.uint8, plan.shape)
        self.offset = mapped.offset
        for plate, note in self.notes.items():
            with suppress(FileNotFoundError, InputError):
                facts = read_json(note)
                light = facts.get("illumination", {})
                same = all(sha256(self.folder / file) == sha for file, sha in light.items())
                if same and not altered_blocks(mapped, facts["blocks"]):
                    self.finished[plate] = facts

    def fill(self, workers: int | str, progress: bool) -> None:
        """Make the unfinished plates; one is written while the next is being counted."""
        todo = {
            plate: blocks
            for plate, blocks in self.plan.blocks.items()
            if plate not in self.finished
        }
        if not todo:
            return
        total = sum(block["fields"] for blocks in todo.values() for block in blocks)
        with (
            pool(workers, self.hidden, [one.path for one in self.plan.images[0]]) as tasks,
            tqdm(total=total, unit="field", desc="pre-processing", disable=not progress) as bar,
        ):
            tasks.run(self.make(plate, bar) for plate in todo)

    def make(self, plate: str, bar: tqdm) -> Generator[Stage, None, None]:
        """Make one plate. Once there is a problem, the rest is only counted."""
        light = "" if self.plan.how.illumination == "none" else (yield from self.light(plate))
        source = _Source(self.plan.how.bin, self.plan.field, light)
        limits = yield from self.count(plate, source)
        if self.problems or self.flat:
            return
        blocks = yield from self.write(plate, source, limits, bar)
        channels = self.plan.screen.channels
        facts = {"limits": dict(zip(channels, limits, strict=True)), "blocks": blocks}
        if light:
            facts["illumination"] = {Path(light).name: sha256(light)}
        write_json(self.notes[plate], facts)
        self.finished[plate] = facts

    def light(self, plate: str) -> Generator[Stage, None, str]:
        """Write the illumination functions of a plate, (C, H, W) float32, and return the path."""
        plan = self.plan
        if plan.how.illumination == "given":
            paths = plan.functions[plate]
            functions = [read_function(path, plan.raw, plan.how.bin) for path in paths]
        else:
            total = np.zeros((len(plan.screen.channels), *plan.field))  # exact: of whole numbers

            def add(_: int, result: tuple[np.ndarray, set[Finding]]) -> None:
                np.add(total, result[0], out=total)
                self.problems |= result[1]

            source, blocks = _Source(plan.how.bin, plan.field), map(block_rows, plan.blocks[plate])
            yield [(_sum, plan.images[rows], source, rows.start) for rows in blocks], add
            functions = [plate_function(one) for one in total]
        path = self.folder / f"illumination-{list(plan.blocks).index(plate)}.npy"
        write_array(path, np.stack(functions))
        return str(path)

    def count(self, plate: str, source: "_Source") -> Generator[Stage, None, list[list[float]]]:
        """Count the pixels of a plate and return the limits of each channel, (C, 2)."""
        plan = self.plan
        histograms = np.zeros((len(plan.screen.channels), COUNTS), np.int64)

        def add(_: int, result: Counts) -> None:
            histograms[:, : result[0].shape[1]] += result[0]
            self.problems |= result[1]
            self.constant += result[2]

        yield (
            [
                (_count, plan.images[rows], source, rows.start, plan.counted[rows].tolist())
                for rows in map(block_rows, plan.blocks[plate])
            ],
            add,
        )
        if not histograms.any(axis=1).all():  # a channel without a readable image is the problem
            return []
        limits = [REFERENCES[plan.how.reference](one).tolist() for one in histograms]
        self.flat += [
            f"plate {plate}, channel {channel}: the reference {plan.how.reference!r} has no "
            "spread; take another"
            for channel, (low, high) in zip(plan.screen.channels, limits, strict=True)
            if low >= high
        ]
        return limits

    def write(
        self, plate: str, source: "_Source", limits: list[list[float]], bar: tqdm
    ) -> Generator[Stage, None, list[Block]]:
        """Write the fields of a plate and return its blocks with their SHA-256."""
        plan, blocks = self.plan, self.plan.blocks[plate]
        hashes: dict[int, str] = {}

        def keep(number: int, sha256: str) -> None:
            hashes[number] = sha256
            bar.update(blocks[number]["fields"])

        size, common = math.prod(plan.shape[1:]), (source, plan.extra, limits, str(self.pixels))
        yield (
            [
                (_write, plan.images[rows], *common, self.offset + rows.start * size)
                for rows in map(block_rows, blocks)
            ],
            keep,
        )
        return [{**block, "sha256": hashes[number]} for number, block in enumerate(blocks)]

    def check(self) -> None:
        """Refuse the screen and drop what was done if there were problems; name constant images."""
        screen = self.plan.screen

        def where(row: int, channel: int) -> str:
            return describe(screen, row, screen.channels[channel])

        changed = [path for path, before in self.plan.stamps.items() if stamp(path) != before]
        problems = [
            *(f"{what} ({where(*place)})" for *place, what in sorted(self.problems)),
            *sorted(self.flat),
            *(f"{path} has changed while the screen was read" for path in changed),
        ]
        if problems:
            discard(self.hidden)
            raise InputError(
                f"{len(problems)} problems in the fields of screen {screen.name!r}; nothing is "
                "written",
                problems,
            )
        if self.constant:  # listed as problems are
            images = [f"{where(*place)}: {what}" for *place, what in sorted(self.constant)]
            heading = f"{len(images)} constant images, which are kept:"
            tqdm.write(str(InputError(heading, images)))

    def write_manifest(self) -> None:
        """Write ``store.json``."""
        plan, plates = self.plan, {plate: self.finished[plate] for plate in self.plan.blocks}
        manifest = {
            "shape": plan.shape,
            "dtype": "uint8",
            "channels": plan.screen.channels,
            "reference": plan.how.reference,
            "bin": plan.how.bin,
            "field": plan.field,
            "padding": plan.extra,
            "limits": {plate: facts["limits"] for plate, facts in plates.items()},
            "blocks": [block for facts in plates.values() for block in facts["blocks"]],
        }
        if plan.how.illumination != "none":
            functions = {plate: facts["illumination"] for plate, facts in plates.items()}
            manifest |= {"illumination": plan.how.illumination, "functions": functions}
        write_json(self.folder / "store.json", {**manifest, "sha256": identity(manifest)})


# ---------------------------------------------------- tasks, of any thread or machine


@dataclass(frozen=True)
class _Source:
    """How counts are had from the images of a plate."""

    bin: int
    field: tuple[int, int]  #: height and width after binning
    light: str = ""  #: file of the functions (C, H, W) that counts are divided by

    def read(self, picture: Picture) -> np.ndarray:
        """Return the counts of an image, binned."""
        image = bin_counts(read_image(picture), self.bin)
        if image.shape != self.field:
            raise InputError(
                f"{picture.path} has changed while the screen was read: {image.shape[0]} x "
                f"{image.shape[1]} pixels now"
            )
        return image

    def functions(self) -> np.ndarray | None:
        """Return what the counts are divided by, (C, H, W), None where they are not."""
        return np.load(self.light, mmap_mode="r", allow_pickle=False) if self.light else None


def _images(
    images: list, source: _Source, first: int, problems: set[Finding]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield row, number of the channel and counts of each image of a block of fields.

    What is wrong with the others is added to `problems`.
    """
    for row, field in enumerate(images, first):
        for channel, picture in enumerate(field):
            try:
                counts = source.read(picture)
            except InputError as error:
                problems.add((row, channel, error.what))
            else:
                yield row, channel, counts


def _sum(images: list, source: _Source, first: int) -> tuple[np.ndarray, set[Finding]]:
    """Return the sum (C, H, W) of a block of fields from row `first` on, and what is wrong."""
    total, problems = np.zeros((len(images[0]), *source.field), np.uint32), set[Finding]()
    for _, channel, image in _images(images, source, first, problems):
        total[channel] += image
    return total, problems


def _count(images: list, source: _Source, first: int, counted: list[bool]) -> Counts:
    """Count a block of fields, each given by its images, from row `first` on.

    Of `Counts` the histograms (C, n) are of the `counted` fields, without what lies above the
    largest count.
    """
    total, functions = np.zeros((len(images[0]), COUNTS), np.int64), source.functions()
    problems: set[Finding] = set()
    constant: list[Finding] = []
    for row, channel, image in _images(images, source, first, problems):
        if image.min() == image.max():
            constant.append((row, channel, f"every pixel is {image.flat[0]}"))
        if functions is not None:
            image = divided(image, functions[channel])
        for top in range(0, len(image) if counted[row - first] else 0, ROWS_AT_ONCE):
            histogram = np.bincount(image[top : top + ROWS_AT_ONCE].ravel())
            total[channel, : len(histogram)] += histogram
    largest = int(np.flatnonzero(total.any(0)).max(initial=0))
    return total[:, : largest + 1].copy(), problems, constant


def _write(
    images: list, source: _Source, extra: tuple[int, int], limits: list, file: str, offset: int
) -> str:
    """Map a block of fields, write it at `offset` of an existing file and return its SHA-256."""
    tables, digest = [_look_up(*pair) for pair in limits], hashlib.sha256()
    field, functions = np.empty((*source.field, len(tables)), np.uint8), source.functions()
    # For writing only: on a shared file system no machine then keeps a copy of what others write
    # next to its block. Written, not memory-mapped: a full disk then is an error and not a crash.
    handle = os.open(file, os.O_WRONLY)
    try:
        for one in images:
            for c, (table, picture) in enumerate(zip(tables, one, strict=True)):
                image = source.read(picture)
                if functions is not None:
                    image = divided(image, functions[c])
                for top in range(0, len(image), ROWS_AT_ONCE):
                    rows = slice(top, top + ROWS_AT_ONCE)
                    # "clip" spares a checked copy; every uint16 is within the 65,536 entries.
                    field[rows, :, c] = table.take(image[rows], mode="clip")
            padded = np.pad(field, ((0, extra[0]), (0, extra[1]), (0, 0)), mode="reflect")
            digest.update(padded.data)
            with naming(file):
                written = os.pwrite(handle, padded.data, offset)
            if written < padded.nbytes:
                raise OSError(errno.ENOSPC, "no space left for the store", file)
            offset += padded.nbytes
    finally:
        os.close(handle)
    return digest.hexdigest()


@lru_cache(maxsize=24)  # blocks of one plate follow each other
def _look_up(low: float, high: float) -> np.ndarray:
    """Return the 8-bit value of every count, (65536,): 0 at Anscombe value `low`, 255 at `high`."""
    stretched = (anscombe(np.arange(COUNTS)) - low) / (high - low)
    return np.rint(np.clip(stretched, 0, 1) * 255).astype(np.uint8)
