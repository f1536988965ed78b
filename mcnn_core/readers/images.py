"""Reading one image: checked before it is decoded, refused by name where it is wrong."""

import math
import os
import re
import stat
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
    """Return the paths of each field's images.

    One tuple per row of the table, in the order of the channels.
    """
    table = screen.table.iloc[rows]
    return list(
        zip(
            *[
                [
                    os.path.join(screen.root, folder, name)
                    for folder, name in zip(
                        table[f"PathName_{channel}"], table[f"FileName_{channel}"], strict=True
                    )
                ]
                for channel in screen.channels
            ],
            strict=True,
        )
    )


def image_tiles(screen: Screen, rows: slice = slice(None)) -> list[str]:
    """Return the ``Metadata_Tile`` of each row; see `tile_slices`.

    It is "" where a file holds one field.
    """
    table = screen.table.iloc[rows]
    return table["Metadata_Tile"].tolist() if "Metadata_Tile" in table else [""] * len(table)


def tile_slices(tile: str) -> tuple[slice, slice]:
    """Return the rows and columns of a field within its file, from text such as "0:128,160:320"."""
    found = re.fullmatch(TILE, tile, re.ASCII)
    if not found:
        raise InputError(
            f"Metadata_Tile {tile!r}: the rows and columns of a part are right, as in 0:128,160:320"
        )
    top, bottom, left, right = map(int, found.groups())
    return slice(top, bottom), slice(left, right)


def describe(screen: Screen, row: int, channel: str) -> str:
    """Return "row 3 of the table: plate P1, well B02, site 1, channel DAPI" (rows count from 0)."""
    return f"row {row} of the table: {field_names(screen.table.iloc[[row]])[0]}, channel {channel}"


def _page(tiff: tifffile.TiffFile, path: str | os.PathLike) -> tifffile.TiffPage:
    """Return the only page of an open TIFF, or refuse it by its header alone."""
    page = tiff.pages.first
    if len(tiff.pages) > 1:
        raise InputError(
            f"{path}: {len(tiff.pages)} pages; one page per field and channel is right"
        )
    if page.samplesperpixel > 1 or page.photometric != tifffile.PHOTOMETRIC.MINISBLACK:
        raise InputError(
            f"{path}: {tifffile.PHOTOMETRIC(page.photometric).name} with {page.samplesperpixel} "
            "samples per pixel; grey (black is zero) is right"
        )
    if page.dtype is None or str(page.dtype) not in DTYPES:
        raise InputError(f"{path}: pixels of type {page.dtype}; {' or '.join(DTYPES)} are right")
    if page.bitspersample != 8 * page.dtype.itemsize:
        raise InputError(f"{path}: {page.bitspersample} bits per pixel; 8 or 16 are right")
    if len(page.shape) != 2 or 0 in page.shape:
        raise InputError(f"{path}: shape {page.shape}; one (height, width) image is right")
    if page.size > MAX_PIXELS:
        raise InputError(
            f"{path}: {page.shape[0]} x {page.shape[1]} pixels; {MAX_PIXELS} at most are right"
        )
    packing = tifffile.COMPRESSION(page.compression).name
    if packing not in COMPRESSIONS:
        raise InputError(f"{path}: compression {packing}; {', '.join(COMPRESSIONS)} are right")
    # tifffile turns none, Pillow these.
    if (
        page.compression == tifffile.COMPRESSION.LZW
        and (turned := page.tags.valueof("Orientation", 1)) != 1
    ):
        raise InputError(
            f"{path}: packed by LZW with orientation {turned}; 1 (not turned) is right"
        )
    stored, size = sum(page.databytecounts), tiff.filehandle.size
    plain = page.compression == tifffile.COMPRESSION.NONE
    if any(
        start + length > size
        for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)
    ) or (plain and stored < page.nbytes):
        raise InputError(
            f"{path}: truncated: the header names more bytes than the {size} of the file; "
            "copy it again"
        )
    parts = math.prod(page.chunked)
    # Absent ones would be read as zeros.
    if not len(page.dataoffsets) == len(page.databytecounts) == parts or 0 in page.databytecounts:
        raise InputError(
            f"{path}: the header names {len(page.dataoffsets)} strips or tiles of pixels, "
            f"not empty; {parts} are right"
        )
    return page


def _tiff(path: str | os.PathLike, decode: bool) -> np.ndarray | tuple[int, int, str]:
    with tifffile.TiffFile(path) as tiff:
        page = _page(tiff, path)
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
                f"{path}: mode {image.mode} with {image.layers} samples per pixel; "
                "grey (L) is right"
            )
        if width * height > MAX_PIXELS:
            raise InputError(f"{path}: {height} x {width} pixels; {MAX_PIXELS} at most are right")
        return np.array(image) if decode else (height, width, "uint8")


@overload
def _open(path: str | os.PathLike, decode: Literal[True]) -> np.ndarray: ...


@overload
def _open(path: str | os.PathLike, decode: Literal[False]) -> tuple[int, int, str]: ...


def _open(path: str | os.PathLike, decode: bool) -> np.ndarray | tuple[int, int, str]:
    """Return height, width and type of an image from its header, or with `decode` its pixels."""
    kind, read = ("JPEG", _jpeg) if os.fspath(path).lower().endswith(JPEG) else ("TIFF", _tiff)
    try:
        # A pipe would wait for somebody to write into it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path}: is no regular file")
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
    """Return the pixels of a file.

    The fields of a montage are read one after another, so it is decoded once.
    """
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
    """Return height, width and type from the header of an image.

    The type is "uint8" or "uint16"; the image is one that `read_image` would accept by its header.
    """
    return _open(path, decode=False)


def image_shape(path: str | os.PathLike) -> tuple[int, int]:
    """Return (height, width) from the header of an image that `read_image` would accept by it."""
    return image_header(path)[:2]


def _field_shape(screen: Screen, shape: tuple[int, int]) -> tuple[tuple[int, int], list[str]]:
    """Return the common (height, width) of the fields in files of `shape`.

    There is one problem per unusable tile beside it.
    """
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
        f"Metadata_Tile {tile or 'empty'}: {size[0]} x {size[1]} pixels; "
        f"{common[0]} x {common[1]} as in most parts is right "
        f"(row {rows[tile]} of the table)"
        for tile, size in sizes.items()
        if size != common
    ]
    return common, problems


def check_headers(screen: Screen) -> tuple[int, int]:
    """Return the common (height, width) of the fields of a screen.

    The header of every image is opened.

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
        f"{path}: {shape[0]} x {shape[1]} pixels; "
        f"{common[0]} x {common[1]} as in most files is right "
        f"({describe(screen, *first[path])})"
        for path, shape in shapes.items()
        if shape != common
    ]
    if problems:
        raise InputError(f"{len(problems)} of {len(first)} images cannot be used", problems)
    common, problems = _field_shape(screen, common)
    if problems:
        raise InputError(
            "Metadata_Tile: fields of one size that lie within their files are right", problems
        )
    return common


def read_field(screen: Screen, i: int) -> np.ndarray:
    """Return the field in row `i` of the table, (H, W, C) uint16.

    Channels are in the order of the screen.
    """
    here = slice(i, i + 1)
    return np.stack(
        [read_image(path, image_tiles(screen, here)[0]) for path in image_paths(screen, here)[0]],
        axis=-1,
    )
