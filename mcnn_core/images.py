"""Reading one image: checked before it is decoded, refused by name where it is wrong."""

import os

import numpy as np
import pandas as pd
import tifffile

from mcnn_core.errors import InputError
from mcnn_core.screen import Screen, field_names

#: Largest image that is decoded, in pixels; a header may claim any size.
MAX_PIXELS = 100_000_000
DTYPES = ("uint8", "uint16")
#: What tifffile decodes without further packages.
COMPRESSIONS = ("NONE", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS")


def image_paths(screen: Screen, rows: slice = slice(None)) -> list[tuple[str, ...]]:
    """Return the paths of each field's images, one tuple per row of the table, in the order of the channels."""
    table = screen.table.iloc[rows]
    return list(zip(*[[os.path.join(screen.root, folder, name) for folder, name in
                       zip(table[f"PathName_{channel}"], table[f"FileName_{channel}"], strict=True)] for channel in screen.channels], strict=True))


def describe(screen: Screen, row: int, channel: str) -> str:
    """Return "row 3 of the table: plate P1, well B02, site 1, channel DAPI" (rows count from 0)."""
    return f"row {row} of the table: {field_names(screen.table.iloc[[row]])[0]}, channel {channel}"


def _page(tiff: tifffile.TiffFile, path: str | os.PathLike) -> tifffile.TiffPage:
    """Return the only page of an open TIFF, or refuse it by its header alone."""
    page = tiff.pages.first
    if len(tiff.pages) > 1:
        raise InputError(f"{path}: {len(tiff.pages)} pages; one page per field and channel is right")
    if page.samplesperpixel > 1 or page.photometric != tifffile.PHOTOMETRIC.MINISBLACK:
        raise InputError(f"{path}: {page.photometric.name} with {page.samplesperpixel} samples per pixel; grey (black is zero) is right")
    if str(page.dtype) not in DTYPES:
        raise InputError(f"{path}: pixels of type {page.dtype}; {' or '.join(DTYPES)} are right")
    if len(page.shape) != 2 or 0 in page.shape:
        raise InputError(f"{path}: shape {page.shape}; one (height, width) image is right")
    if page.size > MAX_PIXELS:
        raise InputError(f"{path}: {page.shape[0]} x {page.shape[1]} pixels; {MAX_PIXELS} at most are right")
    if page.compression.name not in COMPRESSIONS:
        raise InputError(f"{path}: compression {page.compression.name}; {', '.join(COMPRESSIONS)} are right")
    stored, size = sum(page.databytecounts), tiff.filehandle.size
    plain = page.compression == tifffile.COMPRESSION.NONE
    if any(start + length > size for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)) or (plain and stored < page.nbytes):
        raise InputError(f"{path}: truncated: the header names more bytes than the {size} of the file; copy it again")
    return page


def _open(path: str | os.PathLike, decode: bool) -> np.ndarray | tuple[int, int]:
    """Return the shape of an image from its header, or with `decode` its pixels."""
    try:
        with tifffile.TiffFile(path) as tiff:
            page = _page(tiff, path)
            return page.asarray() if decode else page.shape
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: the file does not exist") from None
    # A damaged file can fail anywhere in the decoder, with whatever exception that line raises.
    except Exception as error:
        raise InputError(f"{path}: not a readable TIFF: {type(error).__name__}: {error}") from error


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read one grey TIFF of one page.

    Returns
    -------
    ndarray, (H, W), uint16
        Raw counts; 8-bit images are widened, not stretched.

    Raises
    ------
    InputError
        If the file is missing, truncated or no TIFF, has several pages or samples per pixel,
        is neither uint8 nor uint16, or claims more than `MAX_PIXELS` (found before decoding).
    """
    return _open(path, decode=True).astype(np.uint16, copy=False)


def check_headers(screen: Screen) -> tuple[int, int]:
    """Open the header of every image of a screen and return their common (height, width).

    Raises
    ------
    InputError
        With every file that `read_image` would refuse by its header and every file whose size
        is not that of most files, each with its row.
    """
    shapes, problems = {}, []
    for row, paths in enumerate(image_paths(screen)):
        for path, channel in zip(paths, screen.channels, strict=True):
            try:
                shapes[path, row, channel] = _open(path, decode=False)
            except InputError as error:
                problems.append(f"{error.what} ({describe(screen, row, channel)})")
    common = pd.Series(list(shapes.values())).mode().iat[0] if shapes else (0, 0)
    problems += [f"{path}: {shape[0]} x {shape[1]} pixels; {common[0]} x {common[1]} as in most files is right "
                 f"({describe(screen, row, channel)})" for (path, row, channel), shape in shapes.items() if shape != common]
    if problems:
        raise InputError(f"{len(problems)} of {len(screen.table) * len(screen.channels)} images cannot be used", problems)
    return common


def read_field(screen: Screen, i: int) -> np.ndarray:
    """Return the field in row `i` of the table, (H, W, C) uint16, channels in the order of the screen."""
    return np.stack([read_image(path) for path in image_paths(screen, slice(i, i + 1))[0]], axis=-1)
