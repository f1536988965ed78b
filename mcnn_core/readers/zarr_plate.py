"""Plates of OME-Zarr (NGFF 0.1 to 0.5): which image of which well each array is.

A plate is a folder of wells, a well one of fields, a field one of arrays, the first of which has
the highest resolution.
"""

import os
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from mcnn_core.errors import InputError
from mcnn_core.readers.spelling import well
from mcnn_core.readers.zarr_array import read_array, read_metadata


class Field(NamedTuple):
    """A field of a plate.

    Attributes
    ----------
    path : str
        Of the metadata of its array, from the plate's folder.
    plate, well, site : str
    acquisition : str
        "" where the plate has one.
    names : tuple of str
        Of its channels, as far as they have names.
    axes : str
        Letters of the axes before height and width, of T, C and Z.
    shape : tuple of int
        Their sizes.
    """

    path: str
    plate: str
    well: str
    site: str
    acquisition: str
    names: tuple[str, ...]
    axes: str
    shape: tuple[int, ...]


def attributes(folder: str | os.PathLike) -> dict[str, Any]:
    """Return what the group in a folder says of OME-Zarr; empty where there is no group."""
    new, old = Path(folder, "zarr.json"), Path(folder, ".zattrs")
    if new.is_file():
        found = read_metadata(new).get("attributes") or {}
        return found.get("ome") or found
    return read_metadata(old) if old.is_file() else {}


def closed_metadata(folder: str | os.PathLike, names: Collection[str]) -> str:
    """Return the metadata file of a plate, an image or an array, the rest of which is theirs.

    "" where a folder of these files is none of them.
    """
    kinds = [one for one in ("zarr.json", ".zattrs", ".zarray") if one in names]
    if not kinds or not {"plate", "multiscales"} & {*attributes(folder)}:
        array = "zarr.json" in kinds and "shape" in read_metadata(Path(folder, "zarr.json"))
        return kinds[0] if array or ".zarray" in kinds else ""
    return kinds[0]


def _inside(*parts: str) -> str:
    """Return the path of these parts; refuse one that leads out of its plate."""
    path = "/".join(parts)
    if path.startswith("/") or ".." in path.split("/") or "\\" in path or "\0" in path:
        raise InputError(f"the path {path!r} leads out of the plate")
    return path


def _field(plate: Path, group: str) -> tuple[str, tuple[str, ...], str, tuple[int, ...]]:
    """Return path, names of channels, axes and sizes of the array of a field."""
    said = attributes(plate / group)
    scales = said["multiscales"][0]
    home = _inside(group, scales["datasets"][0]["path"])
    found = [name for name in ("zarr.json", ".zarray") if (plate / home / name).is_file()]
    if not found:
        raise InputError(f"{plate / home}: expected the array of highest resolution, got none")
    array = read_array(str(plate / home / found[0]))
    axes = scales.get("axes") or list("tczyx")
    letters = "".join(one if isinstance(one, str) else one["name"] for one in axes).upper()
    if not re.fullmatch("T?C?Z?YX", letters) or len(letters) != len(array.shape):
        got = f"{letters.lower()} of {' x '.join(map(str, array.shape))}"
        raise InputError(f"{plate / home}: expected axes of t, c, z, y, x in this order, got {got}")
    listed = (said.get("omero") or {}).get("channels") or []
    names = tuple(str(one.get("label") or "").strip() for one in listed)
    return f"{home}/{found[0]}", names, letters[:-2], array.shape[:-2]


def _well(name: str) -> str:
    """Return the well of a path such as B/3, by letters or by numbers."""
    row, _, column = name.partition("/")
    return well(row + column) or well(f"R{row}C{column}") or row + column


def _fields(plate: Path, path: str, name: str, several: bool) -> list[Field | None]:
    """Return the fields of the well at `path`, None for one that is absent.

    A field keeps its number, or is counted in its acquisition where the plate has several.
    """
    said = attributes(plate / _inside(path))
    images = said["well"]["images"] if said else []
    plain = not several and all(image["path"].isdecimal() for image in images)
    counted: Counter[str] = Counter()
    fields: list[Field | None] = []
    for image in images:
        acquisition = str(image.get("acquisition", "")) if several else ""
        counted[acquisition] += 1
        site = image["path"] if plain else str(counted[acquisition])
        group = _inside(path, image["path"])
        if attributes(plate / group):
            place = (name, _well(path), site, acquisition)
            array, names, axes, shape = _field(plate, group)
            fields.append(Field(array, *place, names, axes, shape))
        else:
            fields.append(None)
    return fields or [None]


def read_plate(plate: Path) -> list[Field | None]:
    """Return each field of a plate, None for a well or field that it lists and does not hold.

    Raises
    ------
    InputError
        With all wells whose metadata are damaged.
    """
    said = attributes(plate)["plate"]
    if not isinstance(said, dict) or not isinstance(said.get("wells"), list):
        raise InputError(f"{plate}: expected a plate that lists its wells")
    name = re.sub(r"(\.ome)?\.zarr$", "", str(said.get("name") or plate.resolve().name))
    several = len(said.get("acquisitions") or ()) > 1
    fields: list[Field | None] = []
    problems: list[str] = []
    for one in said["wells"]:
        try:
            fields += _fields(plate, one["path"], name, several)
        except InputError as error:
            problems.append(f"{one['path']}: {error.what}")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            problems.append(f"{one}: its metadata lack or have otherwise {error}")
    if problems:
        raise InputError(f"{plate}: wells of this plate cannot be read", problems)
    return fields
