"""Reading one image: checked before it is decoded, refused by name where it is wrong."""

import math
import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, overload

import numpy as np
import pandas as pd
import tifffile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from mcnn_core.errors import InputError
from mcnn_core.screen import Screen, field_names

#: Largest image that is decoded, in pixels; a header may claim any size.
MAX_PIXELS = 100_000_000


DTYPES = ("uint8", "uint16")


#: Ways of packing that lose nothing and that microscopes use.
COMPRESSIONS = ("NONE", "LZW", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS")


#: Suffixes that are read as JPEG; everything else is read as TIFF.
JPEG = (".jpeg", ".jpg")


#: A field within its file: first row, end of the rows, first column, end of the columns, from 0.
TILE = r"(\d{1,6}):(\d{1,6}),(\d{1,6}):(\d{1,6})"


def image_paths(screen: Screen, rows: slice = slice(None)) -> list[tuple[str, ...]]:
    """Return the paths of each field's images, a tuple per row of the table, one per channel."""
    table = screen.table.iloc[rows]
    columns = [
        [
            os.path.join(screen.root, *parts)
            for parts in zip(
                table[f"PathName_{channel}"], table[f"FileName_{channel}"], strict=True
            )
        ]
        for channel in screen.channels
    ]
    return list(zip(*columns, strict=True))


def image_tiles(screen: Screen, rows: slice = slice(None)) -> list[str]:
    """Return the ``Metadata_Tile`` of each row (`tile_slices`), "" where a file is one field."""
    table = screen.table.iloc[rows]
    return table["Metadata_Tile"].tolist() if "Metadata_Tile" in table else [""] * len(table)


def tile_slices(tile: str) -> tuple[slice, slice]:
    """Return the rows and columns of a field within its file, from text such as "0:128,160:320"."""
    found = re.fullmatch(TILE, tile, re.ASCII)
    if not found:
        raise InputError(
            "Metadata_Tile: expected the rows and columns of a part, as in 0:128,160:320, got "
            f"{tile!r}"
        )
    top, bottom, left, right = map(int, found.groups())
    return slice(top, bottom), slice(left, right)


def describe(screen: Screen, row: int, channel: str) -> str:
    """Return "row 3 of the table: plate P1, well B02, site 1, channel DAPI" (rows count from 0)."""
    return f"row {row} of the table: {field_names(screen.table.iloc[[row]])[0]}, channel {channel}"


def _faults(tiff: tifffile.TiffFile) -> Iterator[str]:
    """Say by its header alone why an open TIFF is refused; after the first the rest is moot."""
    page = tiff.pages.first
    if len(tiff.pages) > 1:
        yield f"expected one page per field and channel, got {len(tiff.pages)}"
    if page.samplesperpixel > 1 or page.photometric != tifffile.PHOTOMETRIC.MINISBLACK:
        kind = tifffile.PHOTOMETRIC(page.photometric).name
        yield (
            f"expected grey (black is zero), got {kind} with {page.samplesperpixel} samples per "
            "pixel"
        )
    if page.dtype is None or str(page.dtype) not in DTYPES:
        yield f"expected pixels of type {' or '.join(DTYPES)}, got {page.dtype}"
    if page.bitspersample != 8 * np.dtype(page.dtype).itemsize:
        yield f"expected 8 or 16 bits per pixel, got {page.bitspersample}"
    if len(page.shape) != 2 or 0 in page.shape:
        yield f"expected one (height, width) image, got shape {page.shape}"
    if page.size > MAX_PIXELS:
        yield f"expected at most {MAX_PIXELS} pixels, got {page.shape[0]} x {page.shape[1]}"
    packing = tifffile.COMPRESSION(page.compression).name
    if packing not in COMPRESSIONS:
        yield f"expected compression {' or '.join(COMPRESSIONS)}, got {packing}"
    # tifffile turns none, Pillow these.
    if packing == "LZW" and (turned := page.tags.valueof("Orientation", 1)) != 1:
        yield f"expected orientation 1 (not turned) with compression LZW, got {turned}"
    size, counts = tiff.filehandle.size, page.databytecounts
    ends = (start + length for start, length in zip(page.dataoffsets, counts, strict=True))
    if any(end > size for end in ends) or (packing == "NONE" and sum(counts) < page.nbytes):
        yield f"truncated: the header names more bytes than the {size} of the file; copy it again"
    parts = math.prod(page.chunked)
    if len(counts) != parts or 0 in counts:  # absent ones would be read as zeros
        got = f"{len(counts)} of which {counts.count(0)} are empty"
        yield f"expected {parts} strips or tiles of pixels, got {got}"


def _tiff(path: str | os.PathLike, decode: bool) -> np.ndarray | tuple[int, int, str]:
    with tifffile.TiffFile(path) as tiff:
        for fault in _faults(tiff):
            raise InputError(f"{path}: {fault}")
        page = tiff.pages.first
        if not decode:
            height, width = page.shape
            return height, width, str(page.dtype)
        if page.compression != tifffile.COMPRESSION.LZW:
            return page.asarray()
    # tifffile would need imagecodecs for LZW, which can crash on a damaged file; Pillow brings the
    # decoder of libtiff.
    with TiffImageFile(path) as image:
        return np.array(image)


def _jpeg(path: str | os.PathLike, decode: bool) -> np.ndarray | tuple[int, int, str]:
    # The class itself and not Image.open: its limit on pixels is not ours, and it guesses the
    # format.
    with JpegImageFile(path) as image:
        width, height = image.size
        if image.mode != "L":
            raise InputError(
                f"{path}: expected grey (mode L), got mode {image.mode} with {image.layers} "
                "samples per pixel"
            )
        if width * height > MAX_PIXELS:
            raise InputError(
                f"{path}: expected at most {MAX_PIXELS} pixels, got {height} x {width}"
            )
        return np.array(image) if decode else (height, width, "uint8")


@overload
def _open(path: str | os.PathLike, decode: Literal[True]) -> np.ndarray: ...


@overload
def _open(path: str | os.PathLike, decode: Literal[False]) -> tuple[int, int, str]: ...


def _open(path: str | os.PathLike, decode: bool) -> np.ndarray | tuple[int, int, str]:
    """Return height, width and type of an image from its header, or with `decode` its pixels."""
    kind, read = ("JPEG", _jpeg) if os.fspath(path).lower().endswith(JPEG) else ("TIFF", _tiff)
    try:
        # A pipe would wait for someone to write into it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path}: not a regular file")
        return read(path, decode)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: the file does not exist") from None
    # A damaged file can fail anywhere in the decoder, with whatever exception that line raises.
    except Exception as error:
        raise InputError(
            f"{path}: not a readable {kind}: {type(error).__name__}: {error}"
        ) from error


@lru_cache(maxsize=12)
def _montage(path: str, stamp: tuple[int, int]) -> np.ndarray:
    """Return the pixels of a file: its fields are read one after another, so decode it once."""
    return _open(path, decode=True)


def read_image(path: str | os.PathLike, tile: str = "") -> np.ndarray:
    """Read one grey TIFF of one page or one grey JPEG, or a part of it.

    Parameters
    ----------
    path : path
        A JPEG where it ends in .jpeg or .jpg, else a TIFF.
    tile : str
        Rows and columns of the field within the file (`tile_slices`); "" is all of it.

    Returns
    -------
    ndarray, (H, W), uint16
        Raw counts; 8-bit images are widened, not stretched.

    Raises
    ------
    InputError
        If the file is missing, truncated or neither TIFF nor JPEG, has several pages or samples per
        pixel, is neither uint8 nor uint16, or claims more than `MAX_PIXELS` (found before
        decoding).
    """
    if not tile:
        return _open(path, decode=True).astype(np.uint16, copy=False)
    rows, columns = tile_slices(tile)
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path}: the file does not exist") from None
    image = _montage(os.fspath(path), (facts.st_mtime_ns, facts.st_size))
    if not (
        rows.start < rows.stop <= image.shape[0] and columns.start < columns.stop <= image.shape[1]
    ):
        raise InputError(
            f"{path}: Metadata_Tile {tile} is not a part of "
            f"{image.shape[0]} x {image.shape[1]} pixels"
        )
    return image[rows, columns].astype(np.uint16)


def image_header(path: str | os.PathLike) -> tuple[int, int, str]:
    """Return height, width and type ("uint8" or "uint16") from the header of an image.

    It raises where `read_image` would refuse the image by its header.
    """
    return _open(path, decode=False)


def image_shape(path: str | os.PathLike) -> tuple[int, int]:
    """Return (height, width) as `image_header` does."""
    return image_header(path)[:2]


def _field_shape(screen: Screen, shape: tuple[int, int]) -> tuple[tuple[int, int], list[str]]:
    """Return the common (height, width) of fields in files of `shape`, and each unusable tile."""
    rows: dict[str, int] = {}
    problems, sizes = [], {}
    for row, tile in enumerate(image_tiles(screen)):
        rows.setdefault(tile, row)
    for tile, row in rows.items():
        try:
            parts = tile_slices(tile) if tile else (slice(0, shape[0]), slice(0, shape[1]))
        except InputError as error:
            problems.append(f"{error.what} (row {row} of the table)")
            continue
        if all(part.start < part.stop <= side for part, side in zip(parts, shape, strict=True)):
            sizes[tile] = tuple(part.stop - part.start for part in parts)
        else:
            problems.append(
                f"Metadata_Tile {tile} is not a part of {shape[0]} x {shape[1]} pixels "
                f"(row {row} of the table)"
            )
    common = pd.Series(list(sizes.values())).mode().iat[0] if sizes else shape
    problems += [
        f"Metadata_Tile {tile or 'empty'}: expected {common[0]} x {common[1]} pixels as in most "
        f"parts, got {size[0]} x {size[1]} (row {rows[tile]} of the table)"
        for tile, size in sizes.items()
        if size != common
    ]
    return common, problems


def check_headers(screen: Screen) -> tuple[int, int]:
    """Return the common (height, width) of the fields of a screen; open every image's header.

    Raises
    ------
    InputError
        With every file that `read_image` would refuse by its header, every file whose size
        is not that of most files and every tile that is not one, each with its first row.
    """
    first: dict[str, tuple[int, str]] = {}
    shapes, problems = {}, []
    for row, paths in enumerate(image_paths(screen)):
        for path, channel in zip(paths, screen.channels, strict=True):
            first.setdefault(path, (row, channel))
    for path, (row, channel) in first.items():
        try:
            shapes[path] = image_shape(path)
        except InputError as error:
            problems.append(f"{error.what} ({describe(screen, row, channel)})")
    common = pd.Series(list(shapes.values())).mode().iat[0] if shapes else (0, 0)
    problems += [
        f"{path}: expected {common[0]} x {common[1]} pixels as in most files, got "
        f"{shape[0]} x {shape[1]} ({describe(screen, *first[path])})"
        for path, shape in shapes.items()
        if shape != common
    ]
    if problems:
        raise InputError(f"{len(problems)} of {len(first)} images cannot be used", problems)
    common, problems = _field_shape(screen, common)
    if problems:
        raise InputError(
            "Metadata_Tile: expected fields of one size that lie within their files", problems
        )
    return common


def read_field(screen: Screen, i: int) -> np.ndarray:
    """Return the field in row `i` of the table, (H, W, C) uint16, channels as in the screen."""
    here = slice(i, i + 1)
    return np.stack(
        [read_image(path, image_tiles(screen, here)[0]) for path in image_paths(screen, here)[0]],
        axis=-1,
    )
