"""Folders as microscopes write them: the LoadData table of the images that lie in one.

Known are plates of OME-Zarr, the index of Harmony (Opera Phenix, Operetta) and Columbus, the
``MeasurementData.mlf`` of Yokogawa's CellVoyager, and file names: those of Harmony, CellVoyager,
ImageXpress, IN Cell and ArrayScan, and plain ones that name well, site and channel.
"""

import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from xml.parsers import expat

import numpy as np
import pandas as pd

from mcnn_core.errors import InputError
from mcnn_core.machine.files import atomic, first_few, read_bytes, refuse_existing
from mcnn_core.readers.formats import tiff_pages
from mcnn_core.readers.spelling import number, well
from mcnn_core.readers.tables import decoded_text
from mcnn_core.readers.zarr_plate import attributes, closed_metadata, read_plate

#: Endings of image files.
ENDINGS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".stk", ".flex")


#: Channels of a folder at most: more are names read amiss.
MOST_CHANNELS = 40

#: Names that tell what is no image of cells, by the kind.
OTHERS = {
    "thumbnails": r"thumb(nail)?s?([0-9A-F]{8})?",
    "illumination images": r"illum\w*|flat[\s_-]?field\w*|shading\w*|(DC|SC)_\w+.*",
    "overlays, masks and montages": r"overlays?|masks?|outlines?|labels?|montages?|stitched\w*",
}


#: Folders that say nothing of the plate: those of a plane, a time point or an export.
BETWEEN = re.compile(r"(TimePoint|ZStep)_?\d+|images?|tiffs?|pngs?|assaydata|measurement", re.I)

_UUID = r"(?:[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12})?"
_WELL = (
    r"(?P<well>[A-P]\d{1,2}|A[A-F]\d{2}|[rR]\d{1,2}[cC]\d{1,2}|"
    r"row[_ -]?(?:[A-P]|\d\d?)[_ -]?col(?:umn)?[_ -]?\d\d?)"
)
_SITE = r"(?:site|s|fld|field|fov|f|pos|p)?[_ ]?(?P<site>\d{1,4})"
_NAMED_SITE = r"(?:site|s|fld|field|fov|f|pos|p)[_ ]?(?P<site>\d{1,4})"
_CHANNEL = r"(?P<channel>(?![stzf]\d+\b|ome\b)[^\W\d_][\w +.]*?(?:-[\w+]{1,12})?)"
_TAIL = r"(?:[_. -]z(?P<plane>\d+))?(?:[_. -]t(?P<time>\d+))?(?:\.ome)?\.\w+"
_PLATE = r"(?:(?P<plate>(?!image--)[^/]+?)[_. -])?"

#: Channels by themselves, as folders and names begin with them.
_DYE = (
    r"(?P<channel>(?:orig)?(?:DAPI|hoechst\w*|DNA|nucle(?:us|i)|ER|RNA|AGP|mito\w*|actin|tubulin|"
    r"phalloidin|WGA|con-?A|syto\w*|draq\w*|[eE]?[GRYCB]FP|m-?cherry|FITC|TRITC|cy\d(?:\.5)?|"
    r"tx-?red|texas[ _-]?red|(?:alexa|AF)[ _-]?(?:fluor)?[ _-]?\d{3}|bright ?field|BF|phase\w*|"
    r"DIC|ch(?:annel)?[ _-]?\d{1,2}|w\d{1,2}|\d{3} ?nm))"
)

#: What is an image where no other name of a folder says more, and a figure elsewhere.
WELL_ALONE = "names of well"

NO_LAYOUT = "images whose names no known layout has"

#: What writes such names, and a path that ends in one: "/" stands before it.
LAYOUTS = {
    "Harmony file names": (
        r"/r(?P<row>\d\d)c(?P<column>\d\d)f(?P<site>\d+)p(?P<plane>\d+)-(?P<channel>ch\d+)"
        r"(?:sk(?P<time>\d+))?(?:fk\d+)?(?:fl\d+)?\.(?:tiff?|jpe?g|png)"
    ),
    "Operetta file names": (
        r"/(?P<row>\d{3})(?P<column>\d{3})-(?P<site>\d+)-(?P<plane>\d{3})(?P<time>\d{3})"
        r"(?P<channel>\d{3})\.tiff?"
    ),
    "Opera file names": r"/(?P<row>\d{3})(?P<column>\d{3})(?P<site>\d{3})\.flex",
    "Yokogawa file names": (
        rf"/(?P<plate>[^/]+)_{_WELL}_T(?P<time>\d{{4}})F(?P<site>\d{{3,4}})L\d\d(?P<action>A\d\d)"
        r"Z(?P<plane>\d{2,3})(?P<channel>C\d\d)\.(?:tiff?|png)"
    ),
    "Gen5 (Cytation) file names": (
        rf"/(?:(?P<plate>[^/]+?)_)?{_WELL}_\d\d_\d{{1,2}}_(?P<site>\d+)(?:Z(?P<plane>\d+))?"
        r"_(?P<channel>[A-Za-z][^/_]*)_(?P<time>\d{3})\.tiff?"
    ),
    "Incucyte file names": (
        rf"/(?:(?P<plate>[^/]+?)_)?{_WELL}_(?P<site>\d+)_"
        r"(?P<time>(?:\d{4}y\d\dm)?\d\dd_?\d\dh\d\dm)\.(?:tiff?|png|jpe?g)"
    ),
    "names of channel, well and site": rf"/{_DYE}[_. -]{_WELL}(?:[_. -]{_SITE})?{_TAIL}",
    "a folder per channel, names of well and site": (
        rf"/{_DYE}/{_PLATE}{_WELL}(?:[_. -]{_SITE})?{_TAIL}"
    ),
    "ImageXpress file names": (
        rf"(?:/TimePoint_(?P<time>\d+))?(?:/ZStep_(?P<plane>\d+))?/(?P<plate>[^/]+)_{_WELL}"
        rf"(?:_s(?P<site>\d+))?(?:_(?P<channel>w\d{{1,2}}))?{_UUID}(?:\.ome)?\.tiff?"
    ),
    "a folder per site, names of well and channel": (
        r"(?:/(?P<plate>[^/]+))?/(?:site|field|fld|fov|pos(?:ition)?)[_ -]?(?P<site>\d+)/"
        rf"(?:[^/]+?[_. -])?{_WELL}[_. -]{_CHANNEL}{_TAIL}"
    ),
    "a folder per time point, names of well, site and channel": (
        r"(?:/(?P<plate>[^/]+))?/(?:t|time|time[_ -]?point|day)[_ -]?(?P<time>\d+)/"
        rf"(?:[^/]+?[_. -])?{_WELL}(?:[_. -]{_SITE})?[_. -]{_CHANNEL}\.\w+"
    ),
    "IN Cell file names": (
        r"/(?P<well>[A-P]{1,2} ?- ?\d+) ?\(fld (?P<site>\d+) wv (?P<channel>[^)]+?)"
        r"(?: z (?P<plane>\d+))?(?: time (?P<time>\d+)[^)]*)?\)\.tiff?"
    ),
    "ArrayScan file names": (rf"/(?P<plate>[^/]+)_{_WELL}f(?P<site>\d+)(?P<channel>d\d+)\.tiff?"),
    "names of well, site and channel": (rf"/{_PLATE}{_WELL}[_. -]{_SITE}[_. -]{_CHANNEL}{_TAIL}"),
    "names of well, channel and site": (rf"/{_PLATE}{_WELL}[_. -]{_CHANNEL}[_. -]{_SITE}{_TAIL}"),
    "names of well and site": rf"/{_PLATE}{_WELL}[_. -]{_NAMED_SITE}{_TAIL}",
    "names of well and channel": rf"/{_PLATE}{_WELL}[_. -]{_CHANNEL}{_TAIL}",
    "folders of well and site, names of channel": (
        rf"(?:/(?P<plate>[^/]+))?/(?:Well[_ -]?)?{_WELL}/{_SITE}/{_CHANNEL}{_TAIL}"
    ),
    "a folder per well, names of site and channel": (
        rf"(?:/(?P<plate>[^/]+))?/(?:Well[_ -]?)?{_WELL}/(?:{_SITE}[_. -])?{_CHANNEL}{_TAIL}"
    ),
    WELL_ALONE: rf"/{_PLATE}{_WELL}{_TAIL}",
}


#: What the metadata of Zarr are called.
METADATA = r"zarr\.json|\.zattrs|\.zarray"
#: What no table can hold: control characters, and bytes that are no UTF-8.
UNWRITABLE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")


#: What a pattern of the user's own may and must name.
GROUPS = ("plate", "well", "row", "column", "site", "channel", "plane", "time")


@dataclass(frozen=True)
class Image:
    """One image of a folder: where it lies, and of what it is.

    ``path`` is relative to the folder, ``home`` the folder of its plate; ``frame`` the page of the
    file, from 0, and "" where the file is the image.
    """

    path: str
    home: str
    plate: str
    well: str
    site: str
    channel: str
    plane: str = "1"
    time: str = "1"
    frame: str = ""


@dataclass
class Found:
    """What a folder holds: its images, what they were taken from, and what was not taken."""

    images: list[Image] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


def _each_plane(
    image: Image, axes: str, shape: tuple[int, ...], names: Sequence[str]
) -> Iterator[Image]:
    """Yield each plane of a file of several along T, C and Z; the file where axes are others.

    A channel without a name of its own is called by its number.
    """
    size = {"T": 1, "C": 1, "Z": 1} | dict(zip(axes, shape, strict=True))
    named = len(names) == size["C"] == len({*names} - {""})
    if any(number > 1 for axis, number in size.items() if axis not in "TCZ"):
        yield replace(image, channel="w1")
        return
    for frame, place in enumerate(np.ndindex(shape)):
        at = {"T": 0, "C": 0, "Z": 0} | dict(zip(axes, place, strict=True))
        number = f"ch{at['C'] + 1}" if size["C"] > 1 else "w1"
        time = f"{image.time}-{at['T'] + 1}" if image.time != "1" else str(at["T"] + 1)
        yield replace(
            image,
            channel=names[at["C"]] if named else number,
            plane=str(at["Z"] + 1) if size["Z"] > 1 else image.plane,
            time=time if size["T"] > 1 else image.time,
            frame=str(frame) if math.prod(shape) > 1 else "",
        )


# -------------------------------------------------------------------------------- indexes


def read_xml(path: str | os.PathLike) -> ElementTree.Element:
    """Read an XML file without the prefixes of its names; a document type is refused.

    Raises
    ------
    InputError
        If it cannot be read, is not whole, or declares a document type, and with it entities.
    """
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate(namespace_separator="}")

    def plain(name: str) -> str:
        return name.rpartition("}")[2]

    def start(name: str, attributes: dict[str, str]) -> None:
        builder.start(plain(name), {plain(key): value for key, value in attributes.items()})

    def refuse(*_: object) -> None:
        raise InputError(f"{path}: expected XML without a document type")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda name: builder.end(plain(name))
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(read_bytes(path), True)
        return builder.close()
    except expat.ExpatError as error:
        raise InputError(f"{path} is not a whole XML file: {error}") from error


def _beside(folder: Path, index: str, name: str) -> str:
    """Return the path below `folder` of a file that an index names, whether it is there or not."""
    home = PurePosixPath(index).parent
    name = name.replace("\\", "/")
    places = [home / name, home / "Images" / name, home.parent / name, home / Path(name).name]
    inside = [os.path.normpath(place) for place in places if not name.startswith("/")]
    inside = [place for place in inside if not place.startswith("..")] or [str(places[-1])]
    return next((place for place in inside if (folder / place).is_file()), inside[0])


def _harmony(folder: Path, index: str) -> Iterator[Image | None]:
    """Yield each image that an index of Harmony or Columbus lists, None for one without a file."""
    root = read_xml(folder / index)
    home = _home(index)
    named = [plate.findtext("Name") or plate.findtext("PlateID") for plate in root.iter("Plate")]
    plate = next((name.strip() for name in named if name and name.strip()), "")
    channels = {
        entry.get("ChannelID", ""): (entry.findtext("ChannelName") or "").strip()
        for entry in root.iter("Entry")
        if entry.findtext("ChannelName")
    }
    for image in root.iter("Image"):
        facts = {child.tag: (child.text or "").strip() for child in image}
        if "Row" not in facts:  # of a well, which names its images
            continue
        url, number_of_channel = image.find("URL"), facts.get("ChannelID", "")
        if not facts.get("URL") or url is None:
            yield None
            continue
        yield Image(
            _beside(folder, index, facts["URL"]),
            home,
            plate or _last(folder, home),
            well(f"R{facts['Row']}C{facts.get('Col', '')}"),
            facts.get("FieldID", "1"),
            facts.get("ChannelName") or channels.get(number_of_channel) or f"ch{number_of_channel}",
            facts.get("PlaneID", "1"),
            facts.get("TimepointID", "1"),
            url.get("BufferNo", ""),
        )


def _yokogawa(folder: Path, index: str) -> Iterator[Image | None]:
    """Yield each image that a MeasurementData.mlf lists, None for one that was not taken."""
    home = _home(index)
    for record in read_xml(folder / index).iter("MeasurementRecord"):
        name = (record.text or "").strip()
        if record.get("Type") != "IMG" or not name:
            yield None
            continue
        plate = re.match(r"(.+)_[A-Z]{1,2}\d\d_T\d{4}F", Path(name.replace("\\", "/")).name)
        yield Image(
            _beside(folder, index, name),
            home,
            plate[1] if plate else _last(folder, home),
            well(f"R{record.get('Row')}C{record.get('Column')}"),
            record.get("FieldIndex", "1"),
            f"C{int(number(record.get('Ch', '1'))):02d}",
            record.get("ZIndex", "1"),
            record.get("TimePoint", "1"),
        )


def _ome_zarr(folder: Path, index: str) -> Iterator[Image | None]:
    """Yield each plane of a plate of OME-Zarr, None for a field that it lists and does not hold."""
    home = PurePosixPath(index).parent
    if "plate" not in attributes(folder / home):
        return
    for one in read_plate(folder / home):
        if one is None:
            yield None
            continue
        names = (_home(index), one.plate, one.well, one.site, "", "1", one.acquisition or "1")
        yield from _each_plane(Image(str(home / one.path), *names), one.axes, one.shape, one.names)


#: The names of indexes, what they are, and what reads them.
INDEXES = (
    (METADATA, "plates of OME-Zarr", _ome_zarr),
    (r"index(\.idx|\.flex)?\.xml|.*columbusidx\.xml", "Harmony's index", _harmony),
    (r"measurementdata\.mlf", "Yokogawa's MeasurementData.mlf", _yokogawa),
)


# -------------------------------------------------------------------------- names of files


def _home(path: str) -> str:
    """Return the folder of the plate of a file: the nearest above it whose name says something."""
    parts = list(PurePosixPath(path).parent.parts)
    while parts and BETWEEN.fullmatch(parts[-1]):
        parts.pop()
    return "/".join(parts)


def _last(folder: Path, home: str) -> str:
    return PurePosixPath(home).name or folder.resolve().name


def _other_kind(path: str) -> str:
    """Return what a file is that shows no cells, by its name and folder; "" if it may show some."""
    names = [PurePosixPath(path).parent.name, *re.split(r"[_\-. ()]+", PurePosixPath(path).stem)]
    names.append(PurePosixPath(path).stem)
    return next(
        (
            kind
            for kind, pattern in OTHERS.items()
            if any(re.fullmatch(pattern, name, re.IGNORECASE) for name in names)
        ),
        "",
    )


def _image(folder: Path, path: str, found: re.Match) -> Image | None:
    """Return the image that a name speaks of; None where it names no well.

    P1 and what looks like a well behind it are a plate and its well; B02 and C01 a well and its
    channel.
    """
    named = {key: text for key, text in found.groupdict().items() if text}
    place = well(named.get("well") or f"R{named.get('row')}C{named.get('column')}")
    channel = named.get("channel", "").strip()
    inside = re.search(rf"(?:^|[_. -]){_WELL}(?:[_. -]|$)", channel)
    if re.fullmatch(r"P\d+", named.get("well", "")) and inside:
        return None
    if re.fullmatch(r"[A-O]\d{1,2}", named.get("plate", "")) and not channel:
        return None
    first = min(found.start(key) for key in named if key != "plate")
    home = _home(found[0][:first].removeprefix("/") + "x")
    halves = channel.split(" - ")
    image = Image(
        path,
        home,
        named.get("plate") or _last(folder, home),
        place,
        number(named.get("site", "1")),
        halves[0] if channel and len({*halves}) == 1 else channel,
        number(named.get("plane", "1")),
        number(named.get("time", "1")),
    )
    return image if place else None


def _by_name(folder: Path, path: str, patterns: dict[str, re.Pattern]) -> tuple[str, Image | None]:
    """Return the first layout whose name a path has, and its image; None where none has."""
    for what, layout in patterns.items():
        matched = layout.fullmatch(f"/{path}")
        if matched and (image := _image(folder, path, matched)):
            return what, image
    return "", None


def _patterns(pattern: str) -> dict[str, re.Pattern]:
    """Return the layouts to try in turn, or the user's own alone."""
    if not pattern:
        return {name: re.compile(f".*?{text}", re.I) for name, text in LAYOUTS.items()}
    try:
        own = re.compile(f"/(?:.*?/)?(?:{pattern.removeprefix('^')})", re.IGNORECASE)
    except re.error as error:
        raise InputError(f"PATTERN={pattern} is no regular expression: {error}") from error
    names = set(own.groupindex)
    if names - {*GROUPS} or not (names >= {"well"} or names >= {"row", "column"}):
        raise InputError(
            r"PATTERN needs named groups, as in (?P<well>[A-P]\d+)_(?P<site>\d+)_(?P<channel>\w+)"
            rf"\.png: well (or row and column), and of {', '.join(GROUPS)} those that names say",
            [f"PATTERN={pattern}"],
        )
    return {f"PATTERN={pattern}": own}


def _wavelengths(folder: Path, paths: Sequence[str]) -> dict[tuple[str, str], str]:
    """Return the names that ImageXpress's .HTD files give to channels, by plate folder and w1."""
    return {
        (_home(path), f"w{one}"): name.strip()
        for path in paths
        if path.lower().endswith(".htd")
        for one, name in re.findall(
            r'"WaveName(\d+)",\s*"([^"\r\n]+)"', decoded_text(folder / path)
        )
    }


# ------------------------------------------------------------------------------- a folder


def _files(folder: Path, left: Counter[str]) -> list[str]:
    """Return every file below a folder, relative to it, in order; hidden ones are left out.

    Of a plate, an image or an array of Zarr only its metadata are returned. Names that no table
    can hold are counted in `left`.
    """
    found = []
    for place, folders, names in os.walk(folder):
        inner = Path(place).relative_to(folder).as_posix()
        if metadata := closed_metadata(place, names):
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [metadata] if metadata else sorted(name for name in names if name[0] != ".")
        found += [f"{inner}/{name}".removeprefix("./") for name in shown]
    writable = [path for path in found if not UNWRITABLE.search(path)]
    left["files whose names have control characters or are not UTF-8"] += len(found) - len(writable)
    return writable


def _indexed(folder: Path, paths: Sequence[str], found: Found) -> set[str]:
    """Add the images that indexes list; return the folders that they speak for."""
    spoken: set[str] = set()
    for path in paths:
        for name, what, read in INDEXES:
            home = str(PurePosixPath(path).parent)
            if not re.fullmatch(name, PurePosixPath(path).name, re.I) or home in spoken:
                continue
            images = list(read(folder, path))
            listed = [image for image in images if image is not None]
            if not listed:
                continue
            spoken |= {home} | {str(PurePosixPath(one.path).parent) for one in listed}
            found.images += listed
            found.sources[what] += len(listed)
            found.left["images that an index lists without a file"] += len(images) - len(listed)
    return spoken


def find_images(folder: str | os.PathLike, pattern: str = "") -> Found:
    """Return the images of a folder, from the indexes and the names of files in it.

    Parameters
    ----------
    folder : path
    pattern : str
        A regular expression that the end of an image's path matches, with named groups among
        `GROUPS`; it replaces the known layouts.

    Raises
    ------
    InputError
        If there is no such folder, an index is damaged, or the pattern is none.
    """
    folder, found = Path(folder), Found()
    if not folder.is_dir():
        raise InputError(f"SCREEN={folder} is not a folder")
    paths, patterns = _files(folder, found.left), _patterns(pattern)
    spoken = set() if pattern else _indexed(folder, paths, found)
    listed = {image.path for image in found.images}
    waves, alone = _wavelengths(folder, paths), Found()
    for path in paths:
        ending = PurePosixPath(path).suffix.lower()
        if path in listed:
            continue
        if re.fullmatch(METADATA, PurePosixPath(path).name):
            found.left["Zarr that is no plate with images"] += (
                str(PurePosixPath(path).parent) not in spoken
            )
        elif ending not in ENDINGS:
            found.left[f"{ending or 'without ending'}"] += 1
        elif kind := _other_kind(path):
            found.left[kind] += 1
        elif str(PurePosixPath(path).parent) in spoken:
            found.left["images that the index does not list"] += 1
        else:
            what, image = _by_name(folder, path, patterns)
            if image is None:
                found.left[NO_LAYOUT] += 1
                continue
            name = waves.get((image.home, image.channel.lower()), image.channel)
            into = alone if what == WELL_ALONE else found
            into.sources[what] += 1
            if name:
                into.images.append(replace(image, channel=name))
            else:
                into.images += _each_plane(image, *tiff_pages(folder / path))
    if not found.images:
        alone.left = found.left
        return alone
    found.left[NO_LAYOUT] += alone.sources[WELL_ALONE]
    return found


# -------------------------------------------------------------------------------- a table


def _apart(images: pd.DataFrame) -> pd.DataFrame:
    """Call plates by their folder where two of one name hold the same field."""
    key = ["plate", "well", "site", "plane", "time", "channel"]
    twice = images.duplicated(key, keep=False)
    clashing = images["plate"].isin(images["plate"][twice])
    images = images.assign(
        plate=images["plate"].mask(clashing & (images["home"] != ""), images["home"])
    )
    twice = images[images.duplicated(key, keep=False)]
    if len(twice):
        raise InputError(
            f"{len(twice):,} images have plate, well, site, plane, time point and channel in common"
            " with another: name what tells them apart with PATTERN=",
            [f"{one.path}: {one.plate} {one.well}, {one.channel}" for one in twice.itertuples()],
        )
    return images


def folder_table(
    folder: str | os.PathLike, out: Path, pattern: str = ""
) -> tuple[pd.DataFrame, list[str]]:
    """Return the LoadData table of a folder, and in words what was taken from where.

    Parameters
    ----------
    folder, pattern
        As for `find_images`.
    out : Path
        Where the table will lie: paths below its folder are relative to that, others absolute.

    Returns
    -------
    DataFrame
        A row per field, plane and time point: ``Metadata_Plate``, ``Metadata_Well``,
        ``Metadata_Site``, where there are several ``Metadata_PlaneID`` and ``Metadata_Timepoint``,
        and ``FileName_``, ``PathName_`` and perhaps ``Frame_`` of each channel.
    list of str

    Raises
    ------
    InputError
        As `find_images`; if the folder holds no image that can be placed, or two for one place.
    """
    folder = Path(os.path.realpath(folder))
    if UNWRITABLE.search(str(folder)):
        raise InputError(f"{str(folder)!r}: expected a folder whose name is UTF-8 text: rename it")
    found = find_images(folder, pattern)
    left = [f"{kind}: {n:,}" for kind, n in found.left.most_common() if n]
    if not found.images:
        raise InputError(
            f"{folder} holds no image whose plate, well and channel its name or an index says; "
            r"say how names are made, as in PATTERN='(?P<well>[A-P]\d+)_(?P<channel>\w+)\.png'",
            left or ["it is empty"],
        )
    channels = sorted({image.channel for image in found.images})
    if len(channels) > MOST_CHANNELS:
        raise InputError(
            f"{folder}: expected at most {MOST_CHANNELS} channels, got {len(channels):,}, such as "
            f"{', '.join(channels[:3])}: say how names are made with PATTERN="
        )
    images = _apart(pd.DataFrame([vars(image) for image in found.images]))
    home = Path(os.path.realpath(out.parent))
    places = [folder / path for path in images["path"]]
    absent = [str(place) for place in places if not place.is_file()]
    images["PathName"] = [
        str(place.parent.relative_to(home) if place.is_relative_to(home) else place.parent)
        for place in places
    ]
    images["FileName"] = [place.name for place in places]
    remarks = [f"taken from {what}: {n:,} images" for what, n in found.sources.items()]
    remarks += [f"not taken: {', '.join(left)}"] if left else []
    remarks += [f"listed but absent: {len(absent):,} ({first_few(absent)})"] if absent else []
    return _fields(images), remarks


def _fields(images: pd.DataFrame) -> pd.DataFrame:
    """Return a row per field, plane and time point from a row per image."""
    names = {
        "plate": "Plate",
        "well": "Well",
        "site": "Site",
        "plane": "PlaneID",
        "time": "Timepoint",
    }
    several = {key: images[key].nunique() > 1 for key in ("plane", "time")}
    keys = [key for key in names if several.get(key, True)]
    parts = ["FileName", "PathName", *["Frame"] * bool((images["frame"] != "").any())]
    images = images.rename(columns={"frame": "Frame"})
    channels = list(dict.fromkeys(images.sort_values("path", kind="stable")["channel"]))
    wide = images.set_index([*keys, "channel"])[parts].unstack("channel").fillna("")
    wide.columns = [f"{part}_{channel}" for part, channel in wide.columns]
    table = wide.reset_index().rename(columns={key: f"Metadata_{names[key]}" for key in keys})
    counts = [f"Metadata_{names[key]}" for key in keys if key not in ("plate", "well")]
    table = table.astype({name: "int64" for name in counts if table[name].str.isdigit().all()})
    table = table.sort_values([f"Metadata_{names[key]}" for key in keys], ignore_index=True)
    order = [f"{part}_{channel}" for channel in channels for part in parts]
    return table[[*table.columns[: len(keys)], *order]]


def write_folder_table(
    folder: str | os.PathLike, out: str | os.PathLike, pattern: str = ""
) -> list[str]:
    """Write the LoadData table of a folder; return what was done, a line each.

    Raises
    ------
    InputError
        As `folder_table`, and if there is a file at `out`.
    """
    out = Path(out).expanduser()
    refuse_existing(out)
    table, remarks = folder_table(Path(folder).expanduser(), out, pattern)
    with atomic(out) as temporary:
        table.to_csv(temporary, index=False)
    channels = [name[9:] for name in table if name.startswith("FileName_")]
    wells = table[["Metadata_Plate", "Metadata_Well"]].drop_duplicates()
    counts = [f"{wells['Metadata_Plate'].nunique():,} plates, {len(wells):,} wells"]
    for kind, what in (("PlaneID", "planes"), ("Timepoint", "time points")):
        if f"Metadata_{kind}" in table:
            counts.append(f"{table[f'Metadata_{kind}'].nunique():,} {what}")
    lacking = int(
        (table[[f"FileName_{name}" for name in channels]] == "").to_numpy().any(axis=1).sum()
    )
    remarks.append(f"{len(table):,} rows: {', '.join(counts)}; channels {', '.join(channels)}")
    if lacking:
        remarks.append(f"rows without an image of every channel: {lacking:,}")
    return remarks
