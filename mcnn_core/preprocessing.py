"""Raw counts to 8 bit: Anscombe transform, histogram normalisation per plate, one store per screen.

The paper transforms counts by 2 sqrt(x + 3/8) (Anscombe 1948, Biometrika 35, 246), normalises
histograms per plate and keeps 8 bit; it does not say which reference the histogram is brought to.
Both of `REFERENCES` are affine maps of the transformed counts, so that one look-up table per plate
and channel does all.

The work is cut into blocks of fields, which any thread or machine may do
(`mcnn_core.machine.scheduler`); what is done is kept if a run is killed. The store remembers the
SHA-256 of every block, taken as the block was written.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import pandas as pd
from tqdm import tqdm

from mcnn_core.errors import SHOWN, InputError
from mcnn_core.machine.files import (
    MARKER,
    claim,
    discard,
    is_ours,
    naming,
    put,
    read_json,
    refuse_foreign,
    register,
    remove_leftovers,
    write_json,
)
from mcnn_core.machine.scheduler import Pool, pool, software
from mcnn_core.readers.images import check_headers, describe, image_paths, image_tiles, read_image
from mcnn_core.screen import Screen

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


def anscombe(counts: np.ndarray) -> np.ndarray:
    """Return 2 sqrt(x + 3/8): Poisson counts of any mean get a variance near 1."""
    return 2 * np.sqrt(np.asarray(counts, dtype=float) + 0.375)


def histogram_percentiles(histogram: np.ndarray, percent: tuple[float, ...]) -> np.ndarray:
    """Return percentiles of the Anscombe values behind a histogram of counts.

    Equal to ``np.percentile(anscombe(x), percent)``: the transform keeps the order of the
    pixels, so ranks are found on counts and only the neighbouring values are transformed.

    Parameters
    ----------
    histogram : ndarray, (65536,), integer
    percent : sequence of float
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
    cores train 120 epochs on such a screen in some 8 minutes, twice in one book, so that all ends
    within 30. Beyond 2,000 fields the budget falls with their number, down to 20,480 (128 x 160).
    """
    budget = max(FEWEST_PIXELS, PIXELS * min(1.0, MANY_FIELDS / n_fields))
    size = 1
    while (shape[0] // size) * (shape[1] // size) > budget:
        size += 1
    return size


def bin_counts(image: np.ndarray, size: int) -> np.ndarray:
    """Return the mean count of each `size` x `size` block, rounded.

    Incomplete blocks at the end are left out. Counts are averaged before the Anscombe transform, as
    a camera bins on its chip: the sum of Poisson counts is Poisson, the sum of their roots is not.
    """
    if size == 1:
        return image
    height, width = image.shape[0] // size, image.shape[1] // size
    blocks = image[: height * size, : width * size].reshape(height, size, width, size)
    return ((blocks.sum(axis=(1, 3), dtype=np.uint64) + size * size // 2) // (size * size)).astype(
        np.uint16
    )


def padding(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return how many rows (bottom) and columns (right) make both sides multiples of `multiple`."""
    return -shape[0] % multiple, -shape[1] % multiple


def _identity(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest.

    It is of how the pixels came about, and by the hashes of the blocks of every pixel.
    """
    told = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """The 8-bit fields of a screen.

    Sent to another machine, it is opened there again from the same folder.

    Attributes
    ----------
    pixels : memmap, (n, H, W, C), uint8
        Row i is row i of the screen's table.
    channels : tuple of str
    manifest : dict
        Shape, channels, reference with its limits per plate and channel (Anscombe values that
        became 0 and 255), bin, field (height and width before padding), padding; ``blocks``, of
        which each has a plate, the first row, the number of fields and their SHA-256; and
        ``sha256`` of all of that, which identifies the store.
    """

    pixels: np.memmap
    channels: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `pixels`, (n, H, W, C)."""
        return self.pixels.shape

    @property
    def folder(self) -> Path:
        """Where the store lies."""
        # None for none that `_mapped` returns
        return Path(cast(str, self.pixels.filename)).parent

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Store":
        """Open a store that `preprocess` wrote.

        Its size and type must be those of its manifest (`verify` reads the pixels too).
        """
        folder = Path(folder)
        try:
            manifest = read_json(folder / "store.json")
            shape, whole = tuple(manifest["shape"]), manifest["sha256"] == _identity(manifest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder} holds no whole store (store.json, pixels.npy): pre-process again"
            ) from error
        if not whole:
            raise InputError(
                f"{folder / 'store.json'} has been altered, it does not match its own SHA-256: "
                "pre-process again"
            )
        pixels = _mapped(folder / "pixels.npy", shape)
        return cls(pixels, tuple(manifest["channels"]), manifest)

    def __reduce__(self) -> tuple:
        """Return how to open the store again from its folder, which must hold the same one."""
        return _same_store, (self.folder, self.manifest["sha256"])

    def verify(self, rows: Sequence[int] | None = None) -> None:
        """Read the blocks that hold `rows` and compare them with their SHA-256.

        All of them are read by default.

        Raises
        ------
        InputError
            With every block that is not as it was written.
        """
        blocks = self.manifest["blocks"]
        if rows is not None:
            wanted = np.zeros(len(self.pixels), bool)
            wanted[np.asarray(rows, dtype=int)] = True
            blocks = [block for block in blocks if wanted[_rows(block)].any()]
        altered = [
            f"plate {block['plate']}: fields {block['first']} to "
            f"{block['first'] + block['fields'] - 1}"
            for block in _altered(self.pixels, blocks)
        ]
        if altered:
            raise InputError(
                f"{self.folder / 'pixels.npy'}: {len(altered)} of {len(blocks)} blocks are not as "
                "they were written: pre-process again",
                altered,
            )


def _mapped(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Map a file of uint8 pixels of this shape into memory.

    InputError if it is none, or has bytes more or less.
    """
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path.parent} holds no whole store (store.json, pixels.npy): pre-process again"
        ) from error
    if (pixels.shape, pixels.dtype) != (shape, np.uint8) or not pixels.flags.c_contiguous:
        raise InputError(
            f"{path}: {pixels.dtype} {pixels.shape} where store.json says uint8 {shape}: "
            "pre-process again"
        )
    size, right = path.stat().st_size, pixels.offset + pixels.nbytes
    if size != right:
        raise InputError(f"{path}: {size} bytes where {right} are right: pre-process again")
    return pixels


def _same_store(folder: Path, identity: str) -> Store:
    store = Store.open(folder)
    if store.manifest["sha256"] != identity:
        raise InputError(
            f"{folder} holds another store than the one that was sent: has it been pre-processed "
            "anew?"
        )
    return store


def _altered(pixels: np.ndarray, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the blocks that do not have their hash.

    Hashing is done in threads: the disk should be what takes time.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        found = threads.map(
            lambda block: hashlib.sha256(pixels[_rows(block)].data).hexdigest(), blocks
        )
        return [
            block for block, digest in zip(blocks, found, strict=True) if digest != block["sha256"]
        ]


def _blocks(plates: pd.Series) -> dict[str, list[dict[str, Any]]]:
    """Cut the rows of a table into blocks that lie together and on one plate.

    A block has at most `BLOCK` rows. They are returned by plate.
    """
    blocks: dict[str, list[dict[str, Any]]] = {}
    edges = np.flatnonzero((plates != plates.shift()).to_numpy()).tolist()
    for start, stop in pairwise([*edges, len(plates)]):
        blocks.setdefault(plates.iat[start], []).extend(
            {"plate": plates.iat[start], "first": first, "fields": min(BLOCK, stop - first)}
            for first in range(start, stop, BLOCK)
        )
    return blocks


def _rows(block: dict[str, Any]) -> slice:
    """Return the rows of a block."""
    return slice(block["first"], block["first"] + block["fields"])


def _count(
    images: list, size: int, counted: list[bool]
) -> tuple[np.ndarray, list[tuple[int, int, str]], list[tuple[int, int, str]]]:
    """Return the histograms (C, n) of the `counted` fields of a block.

    Return also what is wrong with which image of all of them, and which are constant. `images`
    holds for each field its paths and its tile. Of the 65,536 counts those above the largest that
    occurs are left out.
    """
    total, problems, constant = np.zeros((len(images[0][0]), COUNTS), np.int64), [], []
    for number, ((paths, tile), use) in enumerate(zip(images, counted, strict=True)):
        for channel, (sums, path) in enumerate(zip(total, paths, strict=True)):
            try:
                image = bin_counts(read_image(path, tile), size)
            except InputError as error:
                problems.append((number, channel, error.what))
                continue
            if image.min() == image.max():
                constant.append((number, channel, f"every pixel is {image.flat[0]}"))
            for top in range(0, len(image) if use else 0, ROWS_AT_ONCE):
                histogram = np.bincount(image[top : top + ROWS_AT_ONCE].ravel())
                sums[: len(histogram)] += histogram
    return (
        total[:, : int(np.flatnonzero(total.any(0)).max(initial=0)) + 1].copy(),
        problems,
        constant,
    )


def _write(
    images: list,
    size: int,
    shape: tuple[int, int],
    extra: tuple[int, int],
    limits: list,
    file: str,
    offset: int,
) -> str:
    """Map the fields of a block and write them at `offset` of an existing file.

    Return their SHA-256.
    """
    tables, digest = [_look_up(*pair) for pair in limits], hashlib.sha256()
    field = np.empty((*shape, len(tables)), np.uint8)
    # For writing only: where the file is shared, no machine then keeps a copy of what others write
    # beside its block.
    handle = os.open(file, os.O_WRONLY)
    try:
        for paths, tile in images:
            for c, (table, path) in enumerate(zip(tables, paths, strict=True)):
                image = bin_counts(read_image(path, tile), size)
                if image.shape != shape:
                    raise InputError(
                        f"{path} has changed while the screen was read: {image.shape[0]} x "
                        f"{image.shape[1]} pixels now"
                    )
                for top in range(0, len(image), ROWS_AT_ONCE):
                    # mode="clip" spares a checked copy; every uint16 is within the 65,536 entries.
                    field[top : top + ROWS_AT_ONCE, :, c] = table.take(
                        image[top : top + ROWS_AT_ONCE], mode="clip"
                    )
            whole = (
                np.pad(field, ((0, extra[0]), (0, extra[1]), (0, 0)), mode="reflect")
                if any(extra)
                else field
            )
            digest.update(whole.data)
            # Written, not memory-mapped: a full disk then is an error and not a crash.
            with naming(file):
                written = os.pwrite(handle, whole.data, offset)
            if written < whole.nbytes:
                raise OSError(errno.ENOSPC, "no space left for the store", file)
            offset += whole.nbytes
    finally:
        os.close(handle)
    return digest.hexdigest()


@lru_cache(maxsize=24)  # blocks of one plate follow each other
def _look_up(low: float, high: float) -> np.ndarray:
    """Return the 8-bit value of every count, (65536,) uint8.

    It is for the two Anscombe values that become 0 and 255.
    """
    stretched = (anscombe(np.arange(COUNTS)) - low) / (high - low)
    return np.rint(np.clip(stretched, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class _Plan:
    """What is to be made, of what."""

    screen: Screen
    reference: str
    bin: int
    field: tuple[int, int]  #: height and width after binning
    extra: tuple[int, int]  #: rows and columns of padding
    counted: np.ndarray  #: (n,) bool: fields whose pixels set the limits of their plate
    images: list[tuple[tuple[str, ...], str]]  #: paths and tile of each field
    stamps: dict[str, tuple[int, int] | None]  #: size and time of change of each file
    blocks: dict[str, list[dict[str, Any]]]  #: by plate

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the store."""
        height, width = np.add(self.field, self.extra).tolist()
        return len(self.images), height, width, len(self.screen.channels)

    def identity(self) -> str:
        """Return the SHA-256 of everything that the store follows from.

        The contents of the image files are left aside.
        """
        digest = hashlib.sha256(self.counted.tobytes())
        for part in (
            software(),
            self.reference,
            self.bin,
            self.shape,
            self.screen.channels,
            self.blocks,
            *self.images,
            *self.stamps.items(),
        ):
            digest.update(repr(part).encode())
        return digest.hexdigest()


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return None
    return facts.st_size, facts.st_mtime_ns


@dataclass(frozen=True)
class _Work:
    """What has been done, kept in a hidden folder beside the store.

    It is there for the run that goes on after one that was killed. The journal names in its first
    line the plan, then the limits of each plate and the hash of each block, as they are done. A
    line that was cut short is dropped; a block counts only if the file still has its hash.
    """

    #: named after the plan: a worker that a killed run has left behind cannot write into the file
    #: of another plan
    pixels: Path
    journal: TextIO
    limits: dict[str, list[list[float]]]  #: (low, high) of each channel, by plate
    hashes: dict[int, str]  #: by first row of the block

    def note(self, **entry: Any) -> None:
        """Add a line to the journal."""
        self.journal.write(json.dumps(entry) + "\n")
        self.journal.flush()


def _lines(journal: TextIO) -> list[dict[str, Any]]:
    """Read a journal and cut off a last line that is not whole."""
    journal.seek(0)
    text = journal.read()
    whole = text[: text.rfind("\n") + 1]
    journal.truncate(len(whole.encode()))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        return []


def _done(
    lines: list[dict[str, Any]], plan: _Plan, pixels: np.ndarray
) -> tuple[dict[str, list[list[float]]], dict[int, str]]:
    """Return from the lines of a journal the limits of the plates and the hashes of blocks.

    The hashes are of those blocks that still have them.
    """
    told = {line["first"]: line["sha256"] for line in lines if "first" in line}
    blocks = [
        {**block, "sha256": told[block["first"]]}
        for there in plan.blocks.values()
        for block in there
        if block["first"] in told
    ]
    altered = {block["first"] for block in _altered(pixels, blocks)}
    return (
        {line["plate"]: line["limits"] for line in lines if "plate" in line},
        {block["first"]: block["sha256"] for block in blocks if block["first"] not in altered},
    )


@contextmanager
def _work(folder: Path, plan: _Plan) -> Iterator[_Work]:
    """Yield a working folder with what an interrupted run of the same plan has left in it.

    Of another plan, what that has left is deleted.
    """
    claim(folder, "store in the making")
    identity = plan.identity()
    pixels, mapped = folder / f"{identity[:16]}.npy", None
    register(*(folder / name for name in ("journal", "store.json", pixels.name, "pixels.npy")))
    with open(folder / "journal", "a+", encoding="utf-8") as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder}: another run is writing this store; wait for it, or name another folder"
            ) from error
        lines = _lines(journal)
        if lines[:1] == [{"plan": identity}]:
            if (folder / "pixels.npy").exists():  # interrupted when all was done
                os.replace(folder / "pixels.npy", pixels)
            with suppress(InputError):  # if it has been damaged, all is done again
                mapped = _mapped(pixels, plan.shape)
        for item in folder.iterdir():
            if (
                item.name not in ("journal", MARKER)
                and (mapped is None or item != pixels)
                and is_ours(item)
            ):
                item.unlink()
        if mapped is None:
            with naming(pixels):
                np.lib.format.open_memmap(pixels, mode="w+", dtype=np.uint8, shape=plan.shape)
            journal.truncate(0)
            work = _Work(pixels, journal, {}, {})
            work.note(plan=identity)
        else:
            work = _Work(pixels, journal, *_done(lines, plan, mapped))
        yield work


def preprocess(
    screen: Screen,
    folder: str | os.PathLike,
    reference: str = "plate-percentile",
    bin: int = 1,
    multiple: int = 32,
    workers: int = 2,
    scheduler: str = "",
    progress: bool = True,
) -> Store:
    """Write the 8-bit store of a screen and open it.

    Each plate is read twice: once to count its pixels, once to map them. Memory does not grow with
    the number of fields. `folder` appears when it is complete. What is done until then lies in the
    hidden folder ``.NAME.work`` beside it: a run that was killed goes on from there. An image with
    a single grey value, as of a dead well, is kept, since the limits are those of its plate; a line
    of output names it.

    Parameters
    ----------
    screen : Screen
    folder : path
    reference : {"plate-percentile", "dmso"}
        Name in `REFERENCES`.
    bin : int
        Side of the blocks of raw counts that are averaged first; see `auto_bin`.
    multiple : int
        Fields are padded at the bottom and right, by reflection, to multiples of this.
    workers : int
        Threads that share the blocks of fields; the result does not depend on it.
    scheduler : str
        Address of a cluster that does it instead (`mcnn_core.machine.scheduler`); the result does
        not depend on that either.
    progress : bool

    Raises
    ------
    InputError
        With every unusable image, every plate without negative controls where they are the
        reference, every plate whose reference has no spread, and every image that was changed while
        the screen was read; if another run is writing the same store; and what
        `mcnn_core.machine.scheduler.pool` raises.
    """
    if reference not in REFERENCES or bin < 1 or multiple < 1 or workers < 1:
        raise InputError(
            f"reference={reference!r}, bin={bin}, multiple={multiple}, workers={workers}: the "
            f"reference is one of {', '.join(REFERENCES)} and the numbers are 1 or more"
        )
    table, folder = screen.table, Path(folder).resolve()
    height, width = check_headers(screen)
    if min(height, width) < bin:
        raise InputError(f"bin={bin} is larger than a field of {height} x {width} pixels")
    counted = (table["Metadata_control_type"] == "negcon").to_numpy() | (reference != "dmso")
    blocks = _blocks(table["Metadata_Plate"])
    bare = [
        f"plate {plate}"
        for plate, there in blocks.items()
        if not any(counted[_rows(block)].any() for block in there)
    ]
    if bare:
        raise InputError(
            f"reference {reference!r} needs fields with Metadata_control_type negcon on every "
            "plate; name them or take plate-percentile",
            bare,
        )
    field = (height // bin, width // bin)
    images = list(
        zip(
            [tuple(map(os.path.abspath, paths)) for paths in image_paths(screen)],
            image_tiles(screen),
            strict=True,
        )
    )
    stamps = {path: _stamp(path) for paths, _ in images for path in paths}
    plan = _Plan(
        screen, reference, bin, field, padding(field, multiple), counted, images, stamps, blocks
    )
    refuse_foreign(folder, "store")
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    hidden = folder.with_name(f".{folder.name}.work")
    with _work(hidden, plan) as work:
        total = sum(
            block["fields"]
            for there in blocks.values()
            for block in there
            if block["first"] not in work.hashes
        )
        problems: list[str] = []
        constant: list[str] = []
        if total:
            with (
                pool(scheduler, workers, hidden, images[0][0]) as tasks,
                tqdm(total=total, unit="field", desc="pre-processing", disable=not progress) as bar,
            ):
                problems, constant = _fill(plan, work, tasks, bar)
        problems += [
            f"{path} has changed while the screen was read"
            for path, stamp in stamps.items()
            if _stamp(path) != stamp
        ]
        if problems:
            discard(hidden)
            raise InputError(
                f"{len(problems)} problems in the fields of screen {screen.name!r}; nothing is "
                "written",
                problems,
            )
        if constant:
            tqdm.write(
                "\n  - ".join(
                    [
                        f"{len(constant)} constant images, which are kept:",
                        *constant[:SHOWN],
                        *[f"... and {len(constant) - SHOWN} more"] * (len(constant) > SHOWN),
                    ]
                )
            )
        manifest = {
            "shape": list(plan.shape),
            "dtype": "uint8",
            "channels": list(screen.channels),
            "reference": reference,
            "bin": bin,
            "field": list(field),
            "padding": list(plan.extra),
            "limits": {
                plate: dict(zip(screen.channels, work.limits[plate], strict=True))
                for plate in blocks
            },
            "blocks": [
                {**block, "sha256": work.hashes[block["first"]]}
                for there in blocks.values()
                for block in there
            ],
        }
        write_json(hidden / "store.json", {**manifest, "sha256": _identity(manifest)})
        os.replace(work.pixels, hidden / "pixels.npy")
        put(hidden, folder, "store", passing="journal")
        (folder / "journal").unlink(missing_ok=True)
    return Store.open(folder)


def _fill(plan: _Plan, work: _Work, tasks: Pool, bar: tqdm) -> tuple[list[str], list[str]]:
    """Count and write the blocks that `work` lacks; return what is wrong with the fields.

    What is wrong is in the order of the fields. Return also which images are constant. A plate is
    written when all of it is counted, while the next is being counted. Once a problem is found, the
    rest is only counted.
    """
    channels, problems, constant, histograms, left = plan.screen.channels, [], [], {}, {}
    lacking = {
        plate: [block for block in there if block["first"] not in work.hashes]
        for plate, there in plan.blocks.items()
    }
    waiting = [plate for plate, there in lacking.items() if there]
    offset = np.load(work.pixels, mmap_mode="r", allow_pickle=False).offset
    pending: dict[Future, tuple[bool, dict[str, Any]]] = {}

    def count(plate: str) -> None:
        histograms[plate], left[plate] = (
            np.zeros((len(channels), COUNTS), np.int64),
            len(plan.blocks[plate]),
        )
        for block in plan.blocks[plate]:
            rows = _rows(block)
            pending[
                tasks.submit(_count, plan.images[rows], plan.bin, plan.counted[rows].tolist())
            ] = (False, block)

    def write(plate: str) -> None:
        for block in lacking[plate]:
            place = offset + block["first"] * math.prod(plan.shape[1:])
            pending[
                tasks.submit(
                    _write,
                    plan.images[_rows(block)],
                    plan.bin,
                    plan.field,
                    plan.extra,
                    work.limits[plate],
                    str(work.pixels),
                    place,
                )
            ] = (True, block)

    while pending or waiting:
        while waiting and len(pending) < 2 * tasks.slots:
            plate = waiting.pop(0)
            (write if plate in work.limits else count)(plate)
        for (written, block), result in tasks.finished(pending):
            plate, first = block["plate"], block["first"]
            if written:
                work.hashes[first] = result
                work.note(first=first, sha256=result)
                bar.update(block["fields"])
                continue
            histograms[plate][:, : result[0].shape[1]] += result[0]
            problems += [
                (first + number, f"{what} ({describe(plan.screen, first + number, channels[c])})")
                for number, c, what in result[1]
            ]
            constant += [
                (first + number, f"{describe(plan.screen, first + number, channels[c])}: {what}")
                for number, c, what in result[2]
            ]
            left[plate] -= 1
            # Of a channel without a readable image all are named.
            if left[plate] or not histograms[plate].any(axis=1).all():
                continue
            pairs = [
                REFERENCES[plan.reference](histogram).tolist()
                for histogram in histograms.pop(plate)
            ]
            problems += [
                (
                    first,
                    f"plate {plate}, channel {channel}: the reference {plan.reference!r} has no "
                    "spread; take another",
                )
                for channel, (low, high) in zip(channels, pairs, strict=True)
                if low >= high
            ]
            if not problems:
                work.limits[plate] = pairs
                work.note(plate=plate, limits=pairs)
                write(plate)
    wrong, flat = (
        [what for _, what in sorted(found, key=lambda one: one[0])]
        for found in (problems, constant)
    )
    return wrong, flat
