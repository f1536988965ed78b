"""The images of a screen: which file and what of it each is, and its pixels as counts."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from mcnn_core.errors import InputError
from mcnn_core.readers.formats import Header, Pages, Raw, open_image
from mcnn_core.screen import Screen, field_names

#: A field within its file: first row, end of the rows, first column, end of the columns, from 0.
TILE = r"(\d{1,6}):(\d{1,6}),(\d{1,6}):(\d{1,6})"

#: How far colours may be from one hue, in grey values: where nothing is lost by rounding, and of
#: 99.9 % of a JPEG's pixels (measured on drawn cells down to quality 60: up to 22).
ROUNDED, LOSSY = 2, 24

#: What changes values, in words.
UNIT = "fractions from 0 to 1: multiplied by 65,535 and rounded"
FRACTIONS = "counts with fractions: rounded"
APPROXIMATE = (UNIT, FRACTIONS)


class Picture(NamedTuple):
    """Where one image of a field is: in which file, and what of that.

    Attributes
    ----------
    path : str
    more : tuple of str
        Files of further planes, next to it: the brightest value of each pixel is the image's.
    tile : str
        Rows and columns (`tile_slices`); "" is all of the file.
    pages : tuple of Pages
        Which page, for each of these files; the last is that of all others.
    """

    path: str
    more: tuple[str, ...] = ()
    tile: str = ""
    pages: tuple[Pages, ...] = (Pages(),)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of all its files."""
        return (self.path, *self.more)

    @property
    def whole(self) -> "Picture":
        """All of its files."""
        return self._replace(tile="") if self.tile else self


def page_names(rows: pd.DataFrame, channels: Sequence[str]) -> pd.DataFrame:
    """Return which page of its file each image is: a frame, the name of a channel, or "".

    A frame is the text of ``Frame_<channel>``; the name of a channel stands where a row names one
    file for all channels and no frame.
    """
    empty = pd.Series("", rows.index)
    frames = pd.DataFrame({one: rows.get(f"Frame_{one}", empty) for one in channels})
    frames = frames.apply(lambda text: text.str.strip().str.replace(r"\.0*(?=$|/)", "", regex=True))
    names = [rows[[f"{part}Name_{one}" for one in channels]] for part in ("Path", "File")]
    same = [part.eq(part.iloc[:, 0], axis=0).all(axis=1) for part in names]
    whole = same[0] & same[1] & frames.eq("").all(axis=1) & (len(channels) > 1)
    return frames.mask(whole, pd.DataFrame({one: one for one in channels}, rows.index))


def pictures(screen: Screen, rows: slice = slice(None)) -> list[tuple[Picture, ...]]:
    """Return the images of each field, a tuple per row of the table, one per channel."""
    table, root = screen.table.iloc[rows], os.path.abspath(screen.root)
    tiles, named = image_tiles(screen, rows), page_names(table, screen.channels)

    @lru_cache(maxsize=1024)
    def pages(channel: str, name: str) -> tuple[Pages, ...]:
        if name == channel:
            return (Pages("", screen.reading.planes, channel, screen.channels),)
        return tuple(Pages(frame, screen.reading.planes) for frame in name.split("/"))

    columns = []
    for channel in screen.channels:
        files = zip(table[f"PathName_{channel}"], table[f"FileName_{channel}"], strict=True)
        column = []
        for (folder, name), tile, page in zip(files, tiles, named[channel], strict=True):
            first, *others = (os.path.join(root, folder, part) for part in name.split("/"))
            column.append(Picture(first, tuple(others), tile, pages(channel, page)))
        columns.append(column)
    return list(zip(*columns, strict=True))


def image_paths(screen: Screen, rows: slice = slice(None)) -> list[tuple[str, ...]]:
    """Return the path of the file of each field's images, of several planes that of the first."""
    return [tuple(one.path for one in images) for images in pictures(screen, rows)]


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


def stamp(path: str) -> tuple[int, int] | None:
    """Return the size and the time of change of a file, None where there is none."""
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return None
    return facts.st_size, facts.st_mtime_ns


def _files(picture: Picture) -> list[tuple[str, Pages]]:
    """Return each file of an image, and which page of it."""
    last = picture.pages[-1:] * (len(picture.files) - len(picture.pages))
    return list(zip(picture.files, picture.pages + last, strict=True))


# ---------------------------------------------------------------------------------- counts


def _place(wrong: np.ndarray, pixels: np.ndarray) -> str:
    """Say how many pixels are wrong, and which is the first."""
    row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
    which = f"the first, {pixels[row, column]:g}, in row {row}, column {column}, from 0"
    return f"{np.count_nonzero(wrong):,} others ({which})"


def _grey(path: str, raw: Raw) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the one grey image (H, W) behind the samples of each pixel, and what is to be said."""
    if raw.pixels.ndim == 2:
        return raw.pixels, ()
    samples, count = raw.pixels, raw.pixels.shape[2]
    if count in (2, 4):
        alpha = samples[..., -1]
        if alpha.min() != alpha.max():
            got = f"transparency from {alpha.min()} to {alpha.max()}"
            raise InputError(f"{path}: expected an image of one transparency, got {got}")
        samples = samples[..., :-1]
    if count == 2:
        return samples[..., 0], ("grey with transparency: the transparency is left out",)
    if (samples == samples[..., :1]).all():
        return samples[..., 0], ("colours whose samples are equal: read as grey",)
    most = samples.max(axis=(0, 1)).astype(float)
    main = int(most.argmax())
    for other in {0, 1, 2} - {main}:
        far = np.abs(samples[..., other] - samples[..., main] * (most[other] / most[main]))
        if np.quantile(far, 0.999 if raw.lossy else 1) > (LOSSY if raw.lossy else ROUNDED):
            row, column = np.unravel_index(int(far.argmax()), far.shape)
            got = f"{samples[row, column].tolist()} in row {row}, column {column}, from 0"
            raise InputError(
                f"{path}: expected grey or one hue, got colours such as {got}: export each channel "
                "as an image of its own"
            )
    return samples[..., main], ("colours of one hue: its brightest sample is read",)


def _counts(path: str, pixels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return an image (H, W) of any type as uint16, and what is to be said."""
    if pixels.dtype.kind == "u" and pixels.itemsize <= 2:
        return pixels.astype(np.uint16, copy=False), ()
    if pixels.dtype.itemsize < 4:
        pixels = pixels.astype(np.int32 if pixels.dtype.kind in "iu" else np.float32)
    # Also what is not a number.
    if not (right := (pixels >= 0) & (pixels <= 65_535)).all():
        wrong = _place(~right, pixels)
        raise InputError(f"{path}: expected counts from 0 to 65,535, got {wrong}")
    whole = np.rint(pixels)
    if (whole == pixels).all():
        return whole.astype(np.uint16), ()
    if pixels.max() <= 1:
        unit = np.rint(pixels.astype(float) * 65_535).astype(np.uint16)
        return unit, (UNIT,)
    return whole.astype(np.uint16), (FRACTIONS,)


def _read(picture: Picture) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the pixels of all of an image's file, uint16, and what is to be said."""
    planes = []
    for path, pages in _files(picture):
        raw = open_image(path, pages, decode=True)
        grey, hue = _grey(path, raw)
        counts, scale = _counts(path, grey)
        planes.append(counts)
    if len({plane.shape for plane in planes}) > 1:
        got = f"{' and '.join(f'{one.shape[0]} x {one.shape[1]}' for one in planes)}"
        raise InputError(f"{picture.path}: expected planes of one size, got {got}")
    return np.maximum.reduce(planes) if picture.more else counts, raw.notes + hue + scale


@lru_cache(maxsize=12)
def _montage(picture: Picture, stamps: tuple) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return what `_read` does: a file's fields are read one after another, so decode it once."""
    return _read(picture)


def read_picture(picture: Picture) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read one image as `read_image` does; return also what was taken for what, in words."""
    if not picture.tile:
        return _read(picture)
    rows, columns = tile_slices(picture.tile)
    image, notes = _montage(picture.whole, tuple(map(stamp, picture.files)))
    if not _is_part(picture.tile, image.shape):
        raise InputError(
            f"{picture.path}: Metadata_Tile {picture.tile} is not a part of "
            f"{image.shape[0]} x {image.shape[1]} pixels"
        )
    return image[rows, columns].copy(), notes


def read_image(picture: Picture | str | os.PathLike) -> np.ndarray:
    """Read one image: a grey TIFF, PNG or JPEG, or one whose colours have one grey meaning.

    Parameters
    ----------
    picture : Picture or path
        Of a path all of it, which must be of one page.

    Returns
    -------
    ndarray, (H, W), uint16
        Raw counts; 8-bit images are widened, not stretched. Floats are rounded; where none is above
        1 and some are fractions, 1 becomes 65,535. Colours of equal samples, or of one hue, are
        read as grey.

    Raises
    ------
    InputError
        If a file is missing, damaged or of another kind; does not say which of its pages is meant;
        has colours of several hues, or values below 0 or above 65,535; or claims more than
        `mcnn_core.readers.formats.MAX_PIXELS` (found before decoding).
    """
    one = picture if isinstance(picture, Picture) else Picture(os.fspath(picture))
    return read_picture(one)[0]


def image_header(picture: Picture | str | os.PathLike) -> Header:
    """Return height, width and type of the pixels from the headers of an image.

    The size is that of the whole file. It raises where `read_image` would refuse the image by its
    header.
    """
    one = picture if isinstance(picture, Picture) else Picture(os.fspath(picture))
    headers = [open_image(path, pages, decode=False) for path, pages in _files(one)]
    return headers[0]


def image_shape(path: str | os.PathLike) -> tuple[int, int]:
    """Return (height, width) as `image_header` does."""
    return image_header(path)[:2]


# ---------------------------------------------------------------------------------- fields


def _is_part(tile: str, shape: tuple[int, ...]) -> bool:
    parts = zip(tile_slices(tile), shape, strict=True)
    return all(part.start < part.stop <= side for part, side in parts)


def part_size(tile: str, shape: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a field in a file of `shape`; refuse a tile that is no part."""
    if not tile:
        return shape
    if not _is_part(tile, shape):
        text = f"Metadata_Tile {tile} is not a part of {shape[0]} x {shape[1]} pixels"
        raise InputError(text)
    rows, columns = tile_slices(tile)
    return rows.stop - rows.start, columns.stop - columns.start


def _middle(tile: str, shape: tuple[int, int], size: tuple[int, int]) -> str:
    """Return the tile of the middle of `size` of a field."""
    starts = [part.start for part in tile_slices(tile)] if tile else [0, 0]
    spare = np.subtract(part_size(tile, shape), size) // 2
    top, left = np.add(starts, spare).tolist()
    return f"{top}:{top + size[0]},{left}:{left + size[1]}"


def crop(screen: Screen, shapes: dict[Picture, tuple[int, int]]) -> tuple[Screen, str]:
    """Return a screen whose fields have one size, cut from the middle, and what was done.

    Parameters
    ----------
    screen : Screen
    shapes : dict of Picture to (int, int)
        Height and width of each file, by its images without their tile . Fields
        that lack one, or whose channels differ, stay as they are.

    Returns
    -------
    screen : Screen
        With ``Metadata_Tile``, where fields are cut.
    text : str
        "" where all have one size.
    """
    sizes: dict[int, tuple[int, int]] = {}
    files: dict[int, tuple[int, int]] = {}
    for row, images in enumerate(pictures(screen)):
        found = {shapes.get(one.whole) for one in images}
        shape = found.pop()
        if (
            shape is not None
            and not found
            and (images[0].tile == "" or _is_part(images[0].tile, shape))
        ):
            files[row], sizes[row] = shape, part_size(images[0].tile, shape)
    if len(set(sizes.values())) < 2:
        return screen, ""
    size = tuple(np.min(list(sizes.values()), axis=0).tolist())
    tiles = pd.Series(image_tiles(screen), dtype=str)
    cut = [row for row in sizes if sizes[row] != size]
    tiles.iloc[cut] = [_middle(tiles.iat[row], files[row], size) for row in cut]
    table = screen.table.assign(Metadata_Tile=tiles.to_numpy())
    largest = " x ".join(map(str, np.max(list(sizes.values()), axis=0)))
    text = (
        f"{len(cut):,} of {len(table):,} fields, of up to {largest} pixels, are cut to the middle"
    )
    return replace(screen, table=table), f"{text} {size[0]} x {size[1]}"


def field_sizes(
    first: dict[Picture, tuple[int, str]], shapes: dict[Picture, tuple[int, int]]
) -> tuple[tuple[int, int], dict[Picture, tuple[int, int]], dict[Picture, str]]:
    """Return the common (height, width) of fields, that of each, and what is wrong with which.

    Parameters
    ----------
    first : dict of Picture to (int, str)
        Row and channel of each image.
    shapes : dict of Picture to (int, int)
        Height and width of files, by their images without tile; the others are not looked at.

    Returns
    -------
    common : (int, int)
        The smallest of equally frequent ones.
    sizes : dict of Picture to (int, int)
    problems : dict of Picture to str
        One per file, or per tile, and the text.
    """
    sizes: dict[Picture, tuple[int, int]] = {}
    wrong: dict[object, tuple[Picture, str]] = {}
    for one in first:
        if shape := shapes.get(one.whole):
            try:
                sizes[one] = part_size(one.tile, shape)
            except InputError as error:
                wrong.setdefault((one.tile, shape), (one, error.what))
    common = pd.Series(list(sizes.values())).mode().iat[0] if sizes else (0, 0)
    for one, size in sizes.items():
        if size != common:
            name, kind = (f"Metadata_Tile {one.tile}", "parts") if one.tile else (one.path, "files")
            text = f"{name}: expected {common[0]} x {common[1]} pixels as in most {kind}, got "
            key = (one.tile, size) if one.tile else one
            wrong.setdefault(key, (one, f"{text}{size[0]} x {size[1]}"))
    return common, sizes, dict(wrong.values())


def _headers(
    screen: Screen,
) -> tuple[dict[Picture, tuple[int, str]], dict[Picture, tuple[int, int]], list[str]]:
    """Open the header of each file once.

    Return first row and channel of every image, the shapes of files by their images without tile,
    and what is wrong with the others.
    """
    first: dict[Picture, tuple[int, str]] = {}
    for row, images in enumerate(pictures(screen)):
        for one, channel in zip(images, screen.channels, strict=True):
            first.setdefault(one, (row, channel))
    shapes: dict[Picture, tuple[int, int]] = {}
    problems: dict[Picture, str] = {}
    for one, place in first.items():
        if one.whole in shapes or one.whole in problems:
            continue
        try:
            shapes[one.whole] = image_header(one.whole)[:2]
        except InputError as error:
            problems[one.whole] = f"{error.what} ({describe(screen, *place)})"
    return first, shapes, list(problems.values())


def cropped(screen: Screen) -> tuple[Screen, str]:
    """Return what `crop` does, by the headers of all files that can be read."""
    return crop(screen, _headers(screen)[1])


def check_headers(screen: Screen) -> tuple[int, int]:
    """Return the common (height, width) of the fields of a screen; open every image's header.

    Raises
    ------
    InputError
        With every file that `read_image` would refuse by its header, every file whose size
        is not that of most files and every tile that is not one, each with its first row.
    """
    first, shapes, problems = _headers(screen)
    files = len(shapes) + len(problems)
    common, _, wrong = field_sizes(first, shapes)
    for one, text in wrong.items():
        row, channel = first[one]
        place = f"row {row} of the table" if one.tile else describe(screen, row, channel)
        problems.append(f"{text} ({place})")
    if problems:
        raise InputError(f"{len(problems)} of {files} images cannot be used", problems)
    return common


def read_field(screen: Screen, i: int) -> np.ndarray:
    """Return the field in row `i` of the table, (H, W, C) uint16, channels as in the screen."""
    return np.stack([read_image(one) for one in pictures(screen, slice(i, i + 1))[0]], axis=-1)
