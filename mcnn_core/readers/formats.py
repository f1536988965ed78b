"""Files as microscopes write them, TIFF, PNG, JPEG and Zarr: told by content, checked, decoded.

What a file claims is checked before it is decoded. Of several pages one is taken, or the brightest
value of all planes, as a `Pages` says; nothing is taken for a plane that may be something else.
"""

import html
import io
import math
import os
import re
import stat
from collections.abc import Iterator
from typing import Literal, NamedTuple, overload
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from mcnn_core.errors import InputError
from mcnn_core.readers.zarr_array import read_array, read_plane

#: Largest image that is decoded, in samples; a header may claim any size.
MAX_PIXELS = 100_000_000

#: Types of pixels that are read.
INTEGERS = ("uint8", "uint16", "int8", "int16", "uint32", "int32", "uint64", "int64")
DTYPES = (*INTEGERS, "float16", "float32", "float64")

#: Ways of packing a TIFF: tifffile unpacks the first; the others need the libtiff of Pillow, which
#: knows fewer types of pixels. (What tifffile takes for them can crash on a damaged file.)
COMPRESSIONS = ("NONE", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS")
LIBTIFF = ("LZW", "JPEG", "ZSTD", "LZMA")
LIBTIFF_DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32")

#: What the samples of a pixel may be, and of how many the pixels then may be.
PHOTOMETRICS = {"MINISBLACK": (1,), "MINISWHITE": (1,), "PALETTE": (1,), "RGB": (3, 4)}
PHOTOMETRICS |= {"YCBCR": (3,)}  # with JPEG, which turns it into RGB

#: How files begin that are often met where an image is meant.
OTHERS = {
    b"ZISRAWFILE": "a CZI of ZEN",
    b"\xda\xce\xbe\x0a": "an ND2 of NIS-Elements",
    b"p\0\0\0": "a LIF of LAS",
    b"\xd0\xcf\x11\xe0": "an OIB, C01 or other compound file",
    b"\x89HDF": "an HDF5",
    b"\0\0\0\x0cjP": "a JPEG 2000",
    b"BM": "a BMP",
    b"GIF8": "a GIF",
    b"RIFF": "a WebP or AVI",
    b"PK": "a ZIP",
    b"\x1f\x8b": "a file packed by gzip",
    b"version https://git-lfs": "a pointer of Git LFS to a file that was not fetched",
    b"<": "a text such as an error page",
}

PALETTE = "colours from a palette"

#: The axes of a TIFF by what its pages are.
KINDS = {"Z": "planes", "C": "channels", "T": "time points", "S": "samples"}


class Pages(NamedTuple):
    """Which page of a file is meant, or which of several planes.

    Attributes
    ----------
    frame : str
        The page's number, from 0; "" where the file itself says it.
    planes : str
        What becomes of several planes: "max", "middle", a number from 1, "" to refuse them.
    channel : str
        The channel, where the file holds all of them; else "".
    channels : tuple of str
        All channels of that file's row.
    """

    frame: str = ""
    planes: str = ""
    channel: str = ""
    channels: tuple[str, ...] = ()


class Raw(NamedTuple):
    """An image as its file has it.

    Attributes
    ----------
    pixels : ndarray, (H, W) or (H, W, samples)
    lossy : bool
        Whether colours are approximate.
    notes : tuple of str
        What was taken for what.
    """

    pixels: np.ndarray
    lossy: bool = False
    notes: tuple[str, ...] = ()


Header = tuple[int, int, str]  # height, width, type


def _bounded(path: str, height: int, width: int, samples: int = 1) -> None:
    if height * width * samples > MAX_PIXELS:
        raise InputError(f"{path}: expected at most {MAX_PIXELS} pixels, got {height} x {width}")


# ----------------------------------------------------------------------- which page it is


def _channel(path: str, size: int, pages: Pages, names: list[str]) -> int:
    """Return the place of a channel among the `size` of its file: by name, else by order."""
    if not pages.channel:
        raise InputError(
            f"{path}: expected one channel, got {size}: name each one's page, from 0, in Frame_<Ch>"
        )
    known = [name.lower().removeprefix("orig") for name in names]
    meant = [name.lower().removeprefix("orig") for name in pages.channels]
    if len(set(known)) == len(known) and set(meant) <= set(known):
        return known.index(pages.channel.lower().removeprefix("orig"))
    if size != len(meant):
        raise InputError(
            f"{path}: expected {len(meant)} channels, as in the table, got {size}: name each one's "
            "page, from 0, in Frame_<Ch>"
        )
    return pages.channels.index(pages.channel)


def _planes(path: str, size: int, planes: str) -> tuple[slice, str]:
    """Return which of `size` planes are meant, and how that is said."""
    if planes == "max":
        return slice(None), f"stacks of {size} planes: the brightest value of each pixel is taken"
    place = (size + 1) // 2 if planes == "middle" else int(planes)
    if not 1 <= place <= size:
        raise InputError(f"{path}: expected planes from 1 to {size}, got planes={planes}")
    return slice(place - 1, place), f"stacks of {size} planes: number {place} is taken"


def _chosen(
    path: str, axes: str, shape: tuple[int, ...], pages: Pages, names: list[str]
) -> tuple[list[int], tuple[str, ...]]:
    """Return which planes of a file are meant, counted along `axes`, and what is to be said."""
    grid = np.arange(math.prod(shape)).reshape(shape)
    if pages.frame:
        if not re.fullmatch("[0-9]{1,9}", pages.frame) or int(pages.frame) >= grid.size:
            got = f"got Frame {pages.frame}"
            raise InputError(f"{path}: expected a page from 0 to {grid.size - 1}, {got}")
        return [int(pages.frame)], ()
    sizes = {axis: size for axis, size in zip(axes, shape, strict=True) if size > 1}
    notes = []
    for axis, size in sizes.items():
        number, kind = axes.index(axis), KINDS.get(axis, "pages")
        if kind == "pages" and pages.channel and "C" not in sizes and size == len(pages.channels):
            kind = "channels"
        if kind == "channels":
            place = _channel(path, size, pages, names)
            taken, note = slice(place, place + 1), f"page {place} of {size} is {pages.channel}"
        elif pages.planes and kind in ("planes", "pages"):
            taken, note = _planes(path, size, pages.planes)
        elif kind == "planes":
            raise InputError(
                f'{path}: expected one plane, got a stack of {size}: give PARAMS="planes=max", or '
                f"middle, or one from 1 to {size}"
            )
        else:
            planes = ', or give PARAMS="planes=max" if they are planes' if kind == "pages" else ""
            raise InputError(
                f"{path}: expected one page per field and channel, got {size} {kind}: name one, "
                f"from 0, in Frame_<Ch>{planes}"
            )
        grid = grid[(slice(None),) * number + (taken,)]
        notes.append(note)
    if pages.channel and not notes:
        more = f"the {len(pages.channels)} channels that the table names it for"
        raise InputError(f"{path}: expected pages for {more}, got one page")
    return grid.ravel().tolist(), tuple(notes)


# ----------------------------------------------------------------------------------- TIFF


def _ome_names(tiff: tifffile.TiffFile) -> list[str]:
    """Return the names of the channels in the OME header; refuse one that claims too much."""
    text = tiff.ome_metadata or ""
    number = r'(Size[CZT]|PlaneCount|NumPlanes|IFD|First[CZT])\s*=\s*["\']\D*\d{6}'
    if "<!" in re.sub("<!--.*?-->", "", text, flags=re.S) or re.search(number, html.unescape(text)):
        raise InputError(f"{tiff.filehandle.path}: expected fewer than 100,000 pages in OME-XML")
    channels = ElementTree.fromstring(text).findall("{*}Image/{*}Pixels/{*}Channel") if text else []
    return [channel.get("Name", "") for channel in channels]


def _stack(
    tiff: tifffile.TiffFile,
) -> tuple[str, tuple[int, ...], tifffile.TiffPageSeries | None, list[str]]:
    """Return axes and sizes of the planes of an open TIFF, the planes and names of channels."""
    path, first = tiff.filehandle.path, tiff.pages.first
    # Some hold several planes in one page.
    if len(tiff.pages) == 1 and not (first.is_stk or first.is_imagej or first.is_shaped):
        return "", (), None, []
    names = _ome_names(tiff) if tiff.is_ome else []
    series = [one for one in tiff.series if not one.keyframe.is_reduced]
    if len(series) != 1:
        got = f"pages of {len(series)} kinds, in size or type"
        raise InputError(f"{path}: expected one page per field and channel, got {got}")
    axes, end = series[0].get_axes(False), series[0].keyframe.axes
    shape = series[0].get_shape(False)
    if axes.endswith("S") and not end.endswith("S") and shape[-1] == 1:
        axes, shape = axes[:-1], shape[:-1]
    if not axes.endswith(end):
        raise InputError(f"{path}: expected pages of {end}, got axes {axes}")
    lead = len(axes) - len(end)
    return axes[:lead], tuple(shape[:lead]), series[0], names


def tiff_pages(path: str | os.PathLike) -> tuple[str, tuple[int, ...], list[str]]:
    """Return axes and sizes of the planes of a TIFF, and the names of its channels.

    There are none of a file that is no readable TIFF, which the reader of its pixels will say.
    """
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            axes, shape, _, names = _stack(tiff)
            return axes, shape, names
    except Exception:  # a damaged file can fail anywhere in the decoder
        return "", (), []


def _faults(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Iterator[str]:
    """Say by its header alone why a page is refused; after the first the rest is moot."""
    samples, bits = page.samplesperpixel, page.bitspersample
    packing = tifffile.COMPRESSION(page.compression).name
    photometric = tifffile.PHOTOMETRIC(page.photometric).name
    alpha = photometric == "MINISBLACK" and samples == 2 and set(page.extrasamples) & {1, 2}
    if samples not in PHOTOMETRICS.get(photometric, ()) and not alpha:
        yield f"expected grey or RGB, got {photometric} with {samples} samples per pixel"
    if page.dtype is None or str(page.dtype) not in DTYPES:
        yield f"expected pixels of type uint8, uint16 or float32, got {page.dtype}"
    if bits != 8 * np.dtype(page.dtype).itemsize and not (
        bits == 12 and packing == "NONE" and tiff.byteorder == "<"
    ):
        yield f"expected 8 or 16 bits per pixel, got {bits}"
    if page.axes not in ("YX", "YXS", "SYX") or 0 in page.shape:
        yield f"expected one (height, width) image, got shape {page.shape}"
    if page.size > MAX_PIXELS:
        yield f"expected at most {MAX_PIXELS} pixels, got {page.shape[0]} x {page.shape[1]}"
    if packing not in COMPRESSIONS + LIBTIFF:
        yield f"expected compression {' or '.join(COMPRESSIONS + LIBTIFF)}, got {packing}"
    if photometric == "YCBCR" and packing != "JPEG":
        yield f"expected grey or RGB, got YCBCR with compression {packing}"
    if _by_libtiff(page):
        yield from _libtiff_faults(page, packing)
    size, counts = tiff.filehandle.size, page.databytecounts
    ends = (start + length for start, length in zip(page.dataoffsets, counts, strict=True))
    least = page.size // page.imagewidth * math.ceil(page.imagewidth * bits / 8)
    if any(end > size for end in ends) or (packing == "NONE" and sum(counts) < least):
        yield f"truncated: the header names more bytes than the {size} of the file; copy it again"
    parts = math.prod(page.chunked)
    if len(counts) != parts or 0 in counts:  # absent ones would be read as zeros
        got = f"{len(counts)} of which {counts.count(0)} are empty"
        yield f"expected {parts} strips or tiles of pixels, got {got}"


def _by_libtiff(page: tifffile.TiffPage) -> bool:
    packed = tifffile.COMPRESSION(page.compression).name not in COMPRESSIONS
    return packed or page.predictor == tifffile.PREDICTOR.FLOATINGPOINT or page.bitspersample == 12


def _libtiff_faults(page: tifffile.TiffPage, packing: str) -> Iterator[str]:
    """Say what Pillow cannot decode, or not exactly."""
    if (turned := page.tags.valueof("Orientation", 1)) != 1:  # tifffile turns none, Pillow these
        yield f"expected orientation 1 (not turned) with compression {packing}, got {turned}"
    types = LIBTIFF_DTYPES if page.samplesperpixel == 1 else ("uint8",)
    if str(page.dtype) not in types or page.axes == "SYX" or page.samplesperpixel == 2:
        yield (
            f"expected compression {' or '.join(COMPRESSIONS)} with {page.samplesperpixel} samples "
            f"of type {page.dtype}, got {packing}"
        )


def _tiff(path: str, pages: Pages, decode: bool) -> Raw | Header:
    # Of an OME-TIFF of several files only this one.
    with tifffile.TiffFile(path, _multifile=False) as tiff:
        axes, shape, series, names = _stack(tiff)
        places, notes = _chosen(path, axes, shape, pages, names)
        behind = series is not None and len(series) < math.prod(shape)
        start = series.dataoffset if series and behind else 0
        if start is None:
            raise InputError(f"{path}: expected a page for each of {math.prod(shape)} planes")
        planes: list[Raw] = []
        for place in places:
            one = series[0 if behind else place] if series else tiff.pages.first
            if one is None:
                raise InputError(f"{path}: page {place}, which the header names, is absent")
            page = one.aspage()
            for fault in _faults(tiff, page):
                raise InputError(f"{path}: {fault}")
            offset = start + place * page.nbytes
            if behind and offset + page.nbytes > tiff.filehandle.size:
                raise InputError(f"{path}: truncated: plane {place} lies behind the file's end")
            if decode:
                pixels = _behind(page, offset) if behind else _whole(path, page)
                planes = [_brighter(_upright(page, pixels), *planes)]
        if not decode:
            return page.imagelength, page.imagewidth, str(page.dtype)
        return planes[0]._replace(notes=notes + planes[0].notes)


def _whole(path: str, page: tifffile.TiffPage) -> np.ndarray:
    """Return the samples of a page."""
    if not _by_libtiff(page):
        return page.asarray()
    with TiffImageFile(path) as image:
        image.seek(page.index)
        pixels = np.array(image)
    # Pillow inverts 8 bits whose white is zero, and only those.
    return 255 - pixels if (page.photometric, str(page.dtype)) == (0, "uint8") else pixels


def _behind(page: tifffile.TiffPage, offset: int) -> np.ndarray:
    """Return the samples of a plane that has no page of its own, but lies behind that of others."""
    dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    page.parent.filehandle.seek(offset)
    return page.parent.filehandle.read_array(dtype, page.size).reshape(page.shape)


def _upright(page: tifffile.TiffPage, pixels: np.ndarray) -> Raw:
    """Return the pixels of a page with black at zero, and each one's samples together."""
    photometric = tifffile.PHOTOMETRIC(page.photometric).name
    lossy = page.compression == tifffile.COMPRESSION.JPEG
    if photometric == "PALETTE":
        colours = np.asarray(page.colormap, np.uint16)
        colours = colours if page.bitspersample > 8 else (colours >> 8).astype(np.uint8)
        return Raw(np.moveaxis(colours[:, pixels], 0, -1), lossy, (PALETTE,))
    if photometric == "MINISWHITE":
        return Raw(2**page.bitspersample - 1 - pixels, lossy, ("white is zero: inverted",))
    return Raw(np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels, lossy)


def _brighter(one: Raw, other: Raw | None = None) -> Raw:
    """Return the brighter value of each pixel."""
    return one if other is None else one._replace(pixels=np.maximum(one.pixels, other.pixels))


# ---------------------------------------------------------------------------- PNG and JPEG


def _png(path: str, pages: Pages, decode: bool) -> Raw | Header:
    _, notes = _chosen(path, "", (), pages, [])
    with open(path, "rb") as file:
        head = file.read(26)
        # Of the file itself Pillow reads as many bytes as a damaged one claims to have.
        source = io.BytesIO(head + file.read()) if decode else path
    # The class itself and not Image.open: its limit on pixels is not ours, and it guesses.
    with PngImageFile(source) as image:
        width, height = image.size
        _bounded(path, height, width, 4 if image.mode == "P" else len(image.getbands()))
        if getattr(image, "n_frames", 1) > 1:
            raise InputError(f"{path}: expected one image, got {image.n_frames}")
        depth, kind = head[24], {0: "grey", 3: "palette"}.get(head[25], "colour or transparency")
        if kind != "palette" and depth != 8 and (kind, depth) != ("grey", 16):
            right = "8 or 16 bits of grey or 8 of colour"
            raise InputError(f"{path}: expected {right}, got {depth} bits of {kind}")
        if not decode:
            return height, width, "uint16" if depth == 16 else "uint8"
        if kind == "palette":
            return Raw(np.array(image.convert("RGB")), False, (PALETTE,))
        return Raw(np.array(image), False, notes)


def _jpeg(path: str, pages: Pages, decode: bool) -> Raw | Header:
    _, notes = _chosen(path, "", (), pages, [])
    with JpegImageFile(path) as image:
        width, height = image.size
        if image.mode not in ("L", "RGB"):
            got = f"mode {image.mode} with {image.layers} samples per pixel"
            raise InputError(f"{path}: expected grey (mode L) or RGB, got {got}")
        _bounded(path, height, width, image.layers)
        if not decode:
            return height, width, "uint8"
        return Raw(np.array(image), True, notes)


# ------------------------------------------------------------------------------------ Zarr


def _zarr(path: str, pages: Pages, decode: bool) -> Raw | Header:
    array = read_array(path)
    places, notes = _chosen(path, array.axes, array.shape[:-2], pages, [])
    if not decode:
        return array.shape[-2], array.shape[-1], array.dtype
    planes: list[Raw] = []
    for place in places:
        pixels, absent = read_plane(array, place)
        planes = [_brighter(Raw(pixels, False, notes + absent), *planes)]
    return planes[0]


#: How each kind of file begins.
READERS = {
    b"II*\0": ("TIFF", _tiff),
    b"MM\0*": ("TIFF", _tiff),
    b"II+\0": ("TIFF", _tiff),
    b"MM\0+": ("TIFF", _tiff),
    b"\x89PNG": ("PNG", _png),
    b"\xff\xd8\xff": ("JPEG", _jpeg),
    b"{": ("Zarr", _zarr),
}


@overload
def open_image(path: str, pages: Pages, decode: Literal[True]) -> Raw: ...


@overload
def open_image(path: str, pages: Pages, decode: Literal[False]) -> Header: ...


def open_image(path: str, pages: Pages, decode: bool) -> Raw | Header:
    """Return an image as its file has it, or its header alone.

    Raises
    ------
    InputError
        If the file is damaged, none of ours, claims too much, or `pages` does not say which of its
        pages is meant.
    """
    kind = "image"
    try:
        # A pipe would wait for someone to write into it.
        if os.path.isdir(path):
            what = "not a regular file: of an array of Zarr name its zarr.json or .zarray"
            raise InputError(f"{path}: {what}")
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            head = file.read(32)
        for begin, (name, read) in READERS.items():
            if head.startswith(begin):
                kind = name
                return read(path, pages, decode)
        other = next((name for begin, name in OTHERS.items() if head.startswith(begin)), "")
        got = f"it is {other}" if other else f"it begins with {head[:8]!r}"
        raise InputError(f"{path}: not a readable TIFF, PNG or JPEG: {got}")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: the file does not exist") from None
    # A damaged file can fail anywhere in the decoder, with whatever exception that line raises.
    except Exception as error:
        raise InputError(
            f"{path}: not a readable {kind}: {type(error).__name__}: {error}"
        ) from error
