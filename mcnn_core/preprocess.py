"""Raw counts to 8 bit: Anscombe transform, histogram normalisation per plate, one store per screen.

The paper transforms counts by 2 sqrt(x + 3/8) (Anscombe 1948, Biometrika 35, 246), normalises histograms per plate and keeps
8 bit; it does not say which reference the histogram is brought to. Both of `REFERENCES` are
affine maps of the transformed counts, so that one look-up table per plate and channel does all.
"""

import errno
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mcnn_core.errors import InputError
from mcnn_core.files import atomic, read_json, sha256, write_json
from mcnn_core.images import check_headers, describe, image_paths, image_tiles, read_image
from mcnn_core.screen import Screen

COUNTS = 65_536
#: Rows that are counted or mapped together: what they need fits a core's cache.
ROWS_AT_ONCE = 64
#: Percent of a plate's pixels that "plate-percentile" maps to 0 and to 255.
PERCENTILES = (0.1, 99.9)
#: Standard deviations from the mean of the plate's DMSO pixels that "dmso" maps to 0 and to 255.
#: On real fields 0.1 % of pixels lie below -1.3 and 0.1 % above +3.3 to +7.5.
Z_RANGE = (-2.0, 8.0)
#: Pixels of a field after `auto_bin`, for screens of up to 2,000 fields; and its least for larger screens.
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
    below, above = (anscombe(np.searchsorted(cumulated, edge, side="right")) for edge in (np.floor(rank), np.ceil(rank)))
    return below + (above - below) * (rank - np.floor(rank))


def _z_limits(histogram: np.ndarray) -> np.ndarray:
    values = anscombe(np.arange(COUNTS))
    mean = np.average(values, weights=histogram)
    return mean + np.array(Z_RANGE) * math.sqrt(np.average((values - mean) ** 2, weights=histogram))


#: What a plate's histogram is brought to: from the counts (65536,) of its fields, or of its
#: negative controls, to the two Anscombe values that become 0 and 255.
REFERENCES = {"plate-percentile": lambda histogram: histogram_percentiles(histogram, PERCENTILES), "dmso": _z_limits}


def auto_bin(shape: tuple[int, int], n_fields: int) -> int:
    """Return the smallest bin that keeps a field within a budget of pixels (our rule, not the paper's).

    40,960 pixels (two of 128 x 160) up to 2,000 fields: two cores train 120 epochs on such a
    screen in some 8 minutes, twice in one book, so that all ends within 30. Beyond 2,000 fields the budget falls with their number, down to 20,480 (128 x 160).
    """
    budget = max(FEWEST_PIXELS, PIXELS * min(1.0, MANY_FIELDS / n_fields))
    size = 1
    while (shape[0] // size) * (shape[1] // size) > budget:
        size += 1
    return size


def bin_counts(image: np.ndarray, size: int) -> np.ndarray:
    """Return the mean count of each `size` x `size` block, rounded; incomplete blocks at the end are left out.

    Counts are averaged before the Anscombe transform, as a camera bins on its chip: the sum of
    Poisson counts is Poisson, the sum of their roots is not.
    """
    if size == 1:
        return image
    height, width = image.shape[0] // size, image.shape[1] // size
    blocks = image[:height * size, :width * size].reshape(height, size, width, size)
    return ((blocks.sum(axis=(1, 3), dtype=np.uint64) + size * size // 2) // (size * size)).astype(np.uint16)


def padding(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return how many rows (bottom) and columns (right) make both sides multiples of `multiple`."""
    return -shape[0] % multiple, -shape[1] % multiple


@dataclass(frozen=True)
class Store:
    """The 8-bit fields of a screen.

    Attributes
    ----------
    pixels : memmap, (n, H, W, C), uint8
        Row i is row i of the screen's table.
    channels : tuple of str
    manifest : dict
        Shape, channels, reference with its limits per plate and channel (Anscombe values that
        became 0 and 255), bin, field (height and width before padding), padding, SHA-256.
    """

    pixels: np.ndarray
    channels: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `pixels`, (n, H, W, C)."""
        return self.pixels.shape

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Store":
        """Open a store that `preprocess` wrote; its size and type must be those of its manifest."""
        folder = Path(folder)
        try:
            manifest = read_json(folder / "store.json")
            pixels = np.load(folder / "pixels.npy", mmap_mode="r")
            told = (tuple(manifest["shape"]), np.dtype(np.uint8))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} holds no whole store (store.json, pixels.npy): pre-process again") from error
        if (pixels.shape, pixels.dtype) != told:
            raise InputError(f"{folder / 'pixels.npy'}: {pixels.dtype} {pixels.shape} where store.json says uint8 {told[0]}: pre-process again")
        return cls(pixels, tuple(manifest["channels"]), manifest)


def _histograms(screen: Screen, paths: list, size: int, bar: tqdm, rows: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the histograms (C, 65536) of the `counted` ones of `rows`, and one problem per unusable image of all of them."""
    total, problems = np.zeros((len(screen.channels), COUNTS), np.int64), []
    for row, use in zip(rows, counted, strict=True):
        for sums, path, channel in zip(total, paths[row][0], screen.channels, strict=True):
            try:
                image = bin_counts(read_image(path, paths[row][1]), size)
                if image.min() == image.max():
                    raise InputError(f"{path}: constant field: every pixel is {image.flat[0]}")
            except InputError as error:
                problems.append(f"{error.what} ({describe(screen, row, channel)})")
                continue
            for top in range(0, len(image) if use else 0, ROWS_AT_ONCE):
                histogram = np.bincount(image[top:top + ROWS_AT_ONCE].ravel())
                sums[:len(histogram)] += histogram
        bar.update()
    return total, problems


def _write(paths: list, size: int, extra: tuple[int, int], bar: tqdm, rows: np.ndarray, tables: np.ndarray, handle: int, offset: int) -> None:
    """Map `rows` by the look-up `tables` (C, 65536) uint8 and write each at its place in the open file."""
    for row in rows:
        images = [bin_counts(read_image(path, paths[row][1]), size) for path in paths[row][0]]
        field = np.empty((*images[0].shape, len(images)), np.uint8)
        for c, (table, image) in enumerate(zip(tables, images, strict=True)):
            for top in range(0, len(image), ROWS_AT_ONCE):
                # mode="clip" spares a checked copy; every uint16 is within the 65,536 entries.
                field[top:top + ROWS_AT_ONCE, :, c] = table.take(image[top:top + ROWS_AT_ONCE], mode="clip")
        if any(extra):
            field = np.pad(field, ((0, extra[0]), (0, extra[1]), (0, 0)), mode="reflect")
        # Written, not memory-mapped: a full disk then is an error and not a crash.
        if os.pwrite(handle, field.data, offset + int(row) * field.nbytes) < field.nbytes:
            raise OSError(errno.ENOSPC, "no space left for the store")
        bar.update()


def _look_up(limits: np.ndarray) -> np.ndarray:
    """Return the 8-bit value of every count, (65536,) uint8, for the two Anscombe values that become 0 and 255."""
    stretched = (anscombe(np.arange(COUNTS)) - limits[0]) / (limits[1] - limits[0])
    return np.rint(np.clip(stretched, 0, 1) * 255).astype(np.uint8)


def preprocess(screen: Screen, folder: str | os.PathLike, reference: str = "plate-percentile", bin: int = 1, multiple: int = 32,
               workers: int = 2, progress: bool = True) -> Store:
    """Write the 8-bit store of a screen and open it.

    Each plate is read twice: once to count its pixels, once to map them. Memory does not grow
    with the number of fields. `folder` appears when it is complete.

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
        Threads that share the fields of a plate; the result does not depend on it.
    progress : bool

    Raises
    ------
    InputError
        With every unusable image, every constant field, every plate without negative controls
        where they are the reference, and every plate whose reference has no spread.
    """
    if reference not in REFERENCES or bin < 1 or multiple < 1 or workers < 1:
        raise InputError(f"reference={reference!r}, bin={bin}, multiple={multiple}, workers={workers}: the reference is one of "
                         f"{', '.join(REFERENCES)} and the numbers are 1 or more")
    table, folder = screen.table, Path(folder)
    height, width = check_headers(screen)
    if min(height, width) < bin:
        raise InputError(f"bin={bin} is larger than a field of {height} x {width} pixels")
    counted = (table["Metadata_control_type"] == "negcon").to_numpy() | (reference != "dmso")
    plates = {plate: np.flatnonzero(table["Metadata_Plate"] == plate) for plate in dict.fromkeys(table["Metadata_Plate"])}
    bare = [f"plate {plate}" for plate, rows in plates.items() if not counted[rows].any()]
    if bare:
        raise InputError(f"reference {reference!r} needs fields with Metadata_control_type negcon on every plate; "
                         "name them or take plate-percentile", bare)
    field = (height // bin, width // bin)
    extra = padding(field, multiple)
    shape = (len(table), field[0] + extra[0], field[1] + extra[1], len(screen.channels))

    limits, problems = {}, []
    with atomic(folder) as temporary, ThreadPoolExecutor(workers) as pool, tqdm(total=2 * len(table), unit="field", disable=not progress) as bar:
        temporary.mkdir()
        pixels = temporary / "pixels.npy"
        offset = np.lib.format.open_memmap(pixels, mode="w+", dtype=np.uint8, shape=shape).offset
        paths = list(zip(image_paths(screen), image_tiles(screen), strict=True))
        with open(pixels, "r+b") as handle:
            for plate, rows in plates.items():
                parts = np.array_split(rows, min(workers, len(rows)))
                found = list(pool.map(lambda part: _histograms(screen, paths, bin, bar, part, counted[part]), parts))
                problems += [problem for _, wrong in found for problem in wrong]
                if problems:
                    continue
                histograms = sum(histogram for histogram, _ in found)
                limits[plate] = np.array([REFERENCES[reference](histogram) for histogram in histograms])
                flat = limits[plate][:, 0] >= limits[plate][:, 1]
                problems += [f"plate {plate}, channel {channel}: the reference {reference!r} has no spread; take another"
                             for channel, is_flat in zip(screen.channels, flat, strict=True) if is_flat]
                if not problems:
                    tables = np.stack([_look_up(pair) for pair in limits[plate]])
                    list(pool.map(lambda part, tables=tables: _write(paths, bin, extra, bar, part, tables, handle.fileno(), offset), parts))
        if problems:
            raise InputError(f"{len(problems)} problems in the fields of screen {screen.name!r}; nothing is written", problems)
        write_json(temporary / "store.json", {
            "shape": shape, "dtype": "uint8", "channels": list(screen.channels), "reference": reference, "bin": bin, "field": field,
            "padding": extra, "sha256": sha256(pixels), "limits": {
                plate: dict(zip(screen.channels, pairs.tolist(), strict=True)) for plate, pairs in limits.items()}})
    return Store.open(folder)
