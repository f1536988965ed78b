"""Arrays of Zarr, formats 2 and 3: what their metadata say, and the pixels of one plane.

An array is a folder; the file that stands for it is the one with its metadata, ``.zarray`` or
``zarr.json``. What they claim is checked before anything is decoded; zarr reads the chunks.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mcnn_core.errors import InputError

#: Bytes of metadata, planes of an array, samples of a chunk, and chunks of a shard, at most.
MAX_METADATA, MAX_PLANES, MAX_CHUNK, MAX_CHUNKS = 2**24, 100_000, 100_000_000, 1_000_000

#: Types of pixels, and ways of packing that run no code from the file.
DTYPES = re.compile(r"u?int(8|16|32|64)|float(16|32|64)")
CODECS = ("bytes", "transpose", "crc32c", "blosc", "zstd", "gzip", "zlib", "bz2", "lz4")

#: Bytes by which packing may make a chunk longer.
SPARE = 2**16

#: Axes before height and width where the metadata do not name them, by their number.
AXES = ("", "I", "CZ", "TCZ")


class ZarrArray(NamedTuple):
    """An array whose last two axes are height and width.

    Attributes
    ----------
    path : str
        Of its metadata.
    axes : str
        Letters of the axes before these, as of a TIFF.
    shape : tuple of int
        Of all axes.
    chunks : tuple of int
        Sizes of what one file holds.
    dtype : str
    """

    path: str
    axes: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """Read a JSON object of at most `MAX_METADATA` bytes; InputError if it is none."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_METADATA + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_METADATA:
        raise InputError(f"{path}: expected at most {MAX_METADATA:,} bytes of metadata")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a readable Zarr: expected a JSON object")
    return found


def _packing(codecs: list[dict], chunks: list[int]) -> tuple[list[str], list[int], int]:
    """Return the names of codecs of format 3, the sizes of what is decoded at once, and shards."""
    names, parts = [], 1
    for codec in codecs:
        if codec["name"] != "sharding_indexed":
            names.append(codec["name"])
            continue
        inner = codec["configuration"]
        names += [one["name"] for one in [*inner["codecs"], *inner.get("index_codecs", ())]]
        parts = math.prod(chunks) // max(1, math.prod(inner["chunk_shape"]))
        chunks = inner["chunk_shape"]
    return names, chunks, parts


def _facts(path: str) -> tuple[ZarrArray, list[str], list[int], int]:
    """Return an array as its metadata have it, and what `_packing` does."""
    facts = read_metadata(path)
    lead = len(facts["shape"]) - 2
    axes = AXES[lead] if 0 <= lead < len(AXES) else ""
    if facts["zarr_format"] == 2:
        chunks, packings = facts["chunks"], [facts["compressor"], *(facts.get("filters") or ())]
        names = [one["id"] for one in packings if one is not None]
        short = re.fullmatch("[<>|][uif][1248]", facts["dtype"])
        dtype = np.dtype(facts["dtype"]).name if short else str(facts["dtype"])
        array = ZarrArray(path, axes, tuple(facts["shape"]), tuple(chunks), dtype)
        return array, names, chunks, 1
    chunks = facts["chunk_grid"]["configuration"]["chunk_shape"]
    if named := "".join(str(name)[0].upper() for name in facts.get("dimension_names") or ()):
        axes = named[:-2] if len({*named}) == len(facts["shape"]) else axes
    names, inner, parts = _packing(facts["codecs"], chunks)
    dtype = str(facts["data_type"])
    return (
        ZarrArray(path, axes, tuple(facts["shape"]), tuple(chunks), dtype),
        names,
        inner,
        parts,
    )


def read_array(path: str) -> ZarrArray:
    """Read the metadata of an array and refuse what they should not claim.

    Raises
    ------
    InputError
        If they are damaged or no array's; for a type of pixels or a way of packing that is not
        known; for more planes, or larger ones, than the bounds of this module allow.
    """
    try:
        array, codecs, inner, parts = _facts(path)
        sizes = (*array.shape, *array.chunks, *inner)
        whole = all(type(n) is int and 0 < n < 2**31 for n in sizes)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        text = f"expected the metadata of a Zarr array, lacks or has otherwise {error}"
        raise InputError(f"{path}: not a readable Zarr: {text}") from error
    shape = " x ".join(map(str, array.shape))
    if not whole or not len(array.shape) == len(array.chunks) == len(inner) == len(array.axes) + 2:
        what = f"expected 2 to 5 axes, none empty, and chunks of as many, got {shape}"
    elif not DTYPES.fullmatch(array.dtype):
        what = f"expected pixels of type uint8, uint16 or float32, got {array.dtype}"
    elif unknown := [name for name in codecs if name not in CODECS]:
        what = f"expected packing by {', '.join(CODECS[3:])}, got {', '.join(unknown)}"
    elif math.prod(array.shape[:-2]) > MAX_PLANES or math.prod(array.shape[-2:]) > MAX_CHUNK:
        what = f"expected at most {MAX_PLANES:,} planes of {MAX_CHUNK} pixels, got {shape}"
    elif math.prod(inner) > MAX_CHUNK or parts > MAX_CHUNKS:
        what = f"expected chunks of at most {MAX_CHUNK} pixels, got {' x '.join(map(str, inner))}"
    else:
        return array
    raise InputError(f"{path}: {what}")


def read_plane(array: ZarrArray, place: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the pixels (H, W) of a plane, counted from 0 along the axes, and what is to be said.

    Raises
    ------
    InputError
        If none of its chunks is there, or one is longer than what it should hold.
    """
    import zarr

    folder = Path(array.path).parent
    new = Path(array.path).name == "zarr.json"
    opened = zarr.open_array(folder, mode="r", zarr_format=3 if new else 2)
    index = tuple(map(int, np.unravel_index(place, array.shape[:-2]))) if array.axes else ()
    first = [number // size for number, size in zip(index, array.chunks, strict=False)]
    grid = [range(-(-array.shape[axis] // array.chunks[axis])) for axis in (-2, -1)]
    names = [
        folder / opened.metadata.encode_chunk_key((*first, row, column))
        for row in grid[0]
        for column in grid[1]
    ]
    lengths = [name.stat().st_size for name in names if name.is_file()]
    if not lengths:
        text = f"truncated: none of the {len(names)} chunks of plane {place} is there"
        raise InputError(f"{array.path}: {text}; copy it again")
    if max(lengths) > 2 * math.prod(array.chunks) * np.dtype(array.dtype).itemsize + SPARE:
        raise InputError(f"{array.path}: not a readable Zarr: a chunk is longer than its pixels")
    chosen: tuple[int | slice, ...] = (*index, slice(None), slice(None))
    absent = "chunks of Zarr that are absent: read as the fill value, as its writers mean it"
    return np.asarray(opened[chosen]), (absent,) * (len(lengths) < len(names))
