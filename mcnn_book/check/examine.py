"""`make check`: what is wrong with a screen, what is confounded in it, and what it will cost.

It also says how to proceed. Headers of all files are opened, pixels of a sample. The measures of
focus, saturation and emptiness are ours and simple: they say which fields to look at, not which to
drop. Names from tables are not trusted: in the page they are text, and characters that would steer
a terminal are shown as escapes.
"""

import hashlib
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, gaussian_laplace
from tqdm import tqdm

from mcnn_core.columns import joint_codes
from mcnn_core.errors import KEPT, InputError, MissingStageError, Problem
from mcnn_core.machine.files import atomic, write_json
from mcnn_core.preprocessing import COUNTS, REFERENCES, auto_bin, bin_counts
from mcnn_core.profiles import possible_normalisations
from mcnn_core.readers.bbbc021 import examine_bbbc021
from mcnn_core.readers.cells import DEFAULTS
from mcnn_core.readers.formats import Pages
from mcnn_core.readers.imagehts import KIMORPH_FIELD, NEGATIVE, examine_imagehts
from mcnn_core.readers.images import (
    APPROXIMATE,
    Picture,
    crop,
    field_sizes,
    image_header,
    image_paths,
    pictures,
    read_image,
    read_picture,
)
from mcnn_core.readers.incomplete import INCOMPLETE, fault, fetched, wells_lost
from mcnn_core.readers.loaddata import examine_loaddata
from mcnn_core.readers.reading import CHOICES, PLAIN, Reading
from mcnn_core.readers.tables import is_table
from mcnn_core.screen import REQUIRED, Screen, summary
from mcnn_core.surrogate import class_names, default_columns, training_fields, unnamed

#: Fields whose pixels are read, spread over the plates: so many, or up to the second where they are
#: so small that the pixels are no more than those of the first at 1024 x 1280.
SAMPLE, MOST = 64, 2_000


#: Side of the central square in which focus is measured, and the blur before it that takes off
#: single-pixel noise.
SQUARE, BLUR = 512, 2.0


#: A field is out of focus when its sharpness lies this many robust standard deviations, and this
#: factor, below the sample's median.
DEVIATIONS, FACTOR = 4.0, 2.5


#: A field is empty when no channel spans more than this share of what is usual in the sample.
EMPTY_SHARE = 0.1


#: A plate is counted whole, as pre-processing does, where this share of a sampled image's pixels
#: has one value: a plate without spread has such images.
ONE_VALUE = 0.998


#: A field is saturated when more than this share of a channel's pixels lies at a camera's or file's
#: ceiling.
SATURATED, CEILINGS = 0.01, (255, 1_023, 4_095, 16_383, 65_535)


#: What does not depend on the screen, measured on two cores: two chapters simulate and learn
#: a screen of siRNAs, programs start, pages are made.
REST = {
    "stage": "the rest of the book",
    "seconds": 360.0,
    "memory_bytes": 900_000_000,
    "disk_bytes": 700_000_000,
}


#: Plate maps drawn at most, and wells in them altogether.
MAPS, MAP_WELLS = 24, 12_000


#: Doses that a potency needs.
DOSES = 3


#: Items of one code that the page and the terminal name; check.json has up to
#: `mcnn_core.errors.KEPT`.
SHOWN, PRINTED = 50, 3


#: Columns of check.json.
COLUMNS = ["file", "row", "column", "code", "severity", "message", "consequence", "to_do"]


#: Columns of `candidates`.
CANDIDATE = ["columns", "classes", "fewest", "median", "most", "single"]
CANDIDATE += ["unnamed", "usable", "instead"]


LONGEST = 160


#: Codes whose findings the terminal names although they are no errors.
TOLD = ("check-not-made", "image-read-as", "values-changed", "sizes-cut")


#: Files whose headers one thread opens before it takes the next ones.
HEADERS_AT_ONCE = 256


#: Codes that say what was taken as what: all their items are printed.
READ = (
    *("table-read-as", "column-taken", "column-left", "values-missing", "values-read"),
    *("channels-left", "paths-moved", "time-taken", "planes-taken"),
    *("well-without-image", "field-incomplete"),
)


SEVERITIES = ("error", "warning", "note")


def codes() -> pd.DataFrame:
    """Return every code that a check can give, as ``codes.csv`` has it.

    Of each: code, severity, meaning, consequence, chapter (its title), remedy.
    """
    return pd.read_csv(Path(__file__).with_name("codes.csv"), dtype=str, keep_default_na=False)


_KNOWN = {
    row["code"]: row | {"place": (SEVERITIES.index(row["severity"]), number)}
    for number, row in enumerate(codes().to_dict("records"))
}


@dataclass
class Report:
    """What a check has found.

    Attributes
    ----------
    name, source : str
        Of the screen, and what was opened.
    root : str
        Folder of its images.
    problems : list of Problem
        Every finding, with file, row (line of the table, the header being line 1), column and code;
        up to `KEPT` of one code.
    added : Counter
        How many findings of each code were passed to `add`.
    facts : dict of str to str
        The screen in numbers, for people.
    maps : list of dict
        Plate layouts, for the page.
    tables : dict of str to DataFrame
        Those among ``classes``, ``fields``, ``intensities``, ``cost`` that could be made.
    command : str
        The command that builds the book; "" where there is none.
    plates : int
    instead : dict of str to str
        Code that stands for another: what is left out is no error.
    lines : bool
        Whether the screen's fields are lines of a table.
    """

    name: str
    source: str
    root: str = ""
    problems: list[Problem] = field(default_factory=list)
    added: Counter[str] = field(default_factory=Counter)
    facts: dict[str, str] = field(default_factory=dict)
    maps: list[dict] = field(default_factory=list)
    plates: int = 0
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    command: str = ""
    lines: bool = True
    instead: dict[str, str] = field(default_factory=dict)

    def add(
        self, code: str, text: str, file: str = "", index: int | None = None, column: str = ""
    ) -> None:
        """Add one finding; beyond `KEPT` of a code it is only counted.

        `index` is that of the row in the table; the imageHTS layout has no such table.
        """
        code = self.instead.get(code, code)
        self.added[code] += 1
        if self.added[code] <= KEPT:
            row = int(index) + 1 if self.lines and index is not None else None
            severity = _KNOWN[code]["severity"]
            self.problems.append(Problem(text, code, file, row, column, severity=severity))

    def everything(self) -> list[Problem]:
        """Return all findings, and one per code that stands for those which were only counted."""
        return self.problems + [
            Problem(f"{n - KEPT:,} more, which are not listed", code, n=n - KEPT)
            for code, n in self.added.items()
            if n > KEPT
        ]

    def frame(self) -> pd.DataFrame:
        """Return the findings as check.json has them, errors first, then in order of `codes`."""

        def place(one: Problem) -> tuple:
            return _KNOWN[one.code]["place"], one.n > 1, one.row or 0

        rows = []
        for one in sorted(self.everything(), key=place):
            severity, *advice = (
                _KNOWN[one.code][name] for name in ("severity", "consequence", "remedy")
            )
            rows.append((one.file, one.row, one.column, one.code, severity, str(one), *advice))
        return pd.DataFrame(rows, columns=COLUMNS)

    def by_code(self) -> Counter[str]:
        """Return the number of findings of each code."""
        found: Counter[str] = Counter()
        for one in self.everything():
            found[one.code] += one.n
        return found

    def counts(self) -> dict[str, int]:
        """Return the number of findings of each severity."""
        found: Counter[str] = Counter()
        for code, n in self.by_code().items():
            found[_KNOWN[code]["severity"]] += n
        return {name: found[name] for name in SEVERITIES}


def visible(text: object, longest: int = LONGEST) -> str:
    """Return text that no terminal obeys: escapes for what is not printable, cut at `longest`."""
    text = str(text)
    cut = text if len(text) <= longest else f"{text[: longest - 40]}… ({len(text):,} characters)"
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in cut
    )


# ------------------------------------------------------------------------------ opening


def _open(report: Report, name: str, data: str, reading: Reading) -> tuple[Screen, pd.DataFrame]:
    """Return the screen of all right rows and the files of every row; raise why none can be."""
    if is_table(name):
        screen, problems, files = examine_loaddata(name, reading=reading)
        report.problems += problems
        return screen, files
    if os.path.isdir(name):
        what = f"a folder has no table yet: write it with make table SCREEN={name} OUT=FILE.csv"
        raise InputError(what, [Problem(what, "layout-wrong")])
    if name not in ("bbbc021", "kimorph") or not data:
        raise InputError(
            "expected SCREEN=PATH.csv, or SCREEN=bbbc021 or kimorph with DATA=DIR, the folder of "
            f"that screen or of a simulated one, got SCREEN={name} DATA={data}",
            [Problem(f"SCREEN={name} DATA={data}", "layout-wrong")],
        )
    if name == "bbbc021":
        screen, problems, files = examine_bbbc021(data)
    else:
        screen, problems = examine_imagehts(
            data, KIMORPH_FIELD, negative=reading.negative or NEGATIVE
        )
        report.lines = False
        # The headers say which files are missing.
        problems = [problem for problem in problems if problem.code != "file-missing"]
        files = pd.DataFrame(image_paths(screen), screen.table.index, screen.channels, dtype=str)
        files = files.astype(pd.CategoricalDtype(np.unique(files))).where(
            ~files.isin([problem.file for problem in problems])
        )
    report.problems += problems
    present, absent = fetched(screen)
    for plate in absent:
        report.add("plate-not-fetched", f"plate {plate}")
    lines = screen.table.index[~screen.table["Metadata_Plate"].isin(absent)]
    gone = screen.table.index.difference(lines)
    return replace(present, table=present.table.set_axis(lines)), files.drop(index=gone)


def _called(table: pd.DataFrame, index: int) -> str:
    return ", ".join(f"{name[9:].lower()} {table.at[index, name]}" for name in REQUIRED)


# ------------------------------------------------------------------------------- headers


def _header(picture: Picture) -> tuple[int, int, str] | tuple[str, str]:
    """Return height, width and type of an image, or code and message of what is wrong with it."""
    try:
        return image_header(picture)
    except InputError as error:
        return fault(error, picture), error.what


def _images(screen: Screen, files: pd.DataFrame) -> dict[int, list[Picture | None]]:
    """Return the images of each row of `files`, None where unnamed.

    Of a row that is wrong only the file is known, and its first page stands for it.
    """
    known = dict(zip(screen.table.index, map(list, pictures(screen)), strict=True))
    rest = (Pages("0"),)
    return {
        row: known.get(row)
        or [Picture(path, pages=rest) if isinstance(path, str) else None for path in paths]
        for row, paths in zip(files.index, files.astype(object).to_numpy(), strict=True)
    }


def _first(
    images: dict[int, list[Picture | None]], channels: Iterable[str]
) -> dict[Picture, tuple[int, str]]:
    """Return first row and channel of each image, channel by channel."""
    first: dict[Picture, tuple[int, str]] = {}
    for number, channel in enumerate(channels):
        for row, places in images.items():
            if one := places[number]:
                first.setdefault(one, (row, channel))
    return first


def _headers(
    report: Report, screen: Screen, files: pd.DataFrame, workers: int, progress: bool
) -> tuple[Screen, np.ndarray, tuple[int, int] | None]:
    """Open every image's header once.

    Return the screen, its fields cut where that is asked for, the mask of the rows of `files` that
    can be used, and the common height and width of their fields.
    """
    images = _images(screen, files)
    first = _first(images, files)
    places: dict[Picture, tuple[int, str]] = {}
    for one, place in first.items():
        places.setdefault(one.whole, place)
    facts, damaged = _opened(report, places, workers, progress)
    screen = _incomplete(report, screen, images, damaged)
    if not facts:
        report.add(
            "check-not-made", "size, depth and pixels of the images: no file could be opened"
        )
        return screen, np.zeros(len(files), bool), None
    shapes = {one: size[:2] for one, size in facts.items()}
    if screen.reading.sizes == "crop":
        screen, text = crop(screen, shapes)
        if text:
            report.add("sizes-cut", text)
            images = images | _images(screen, files.loc[screen.table.index])
            first = _first(images, files)
    common, sizes, wrong = field_sizes(first, shapes)
    for one, text in wrong.items():
        row, channel = first[one]
        if one.tile:
            report.add("tile-wrong", text, index=row, column="Metadata_Tile")
        else:
            report.add("file-size-differs", text, one.path, row, f"FileName_{channel}")
    _depths(report, {one: (places[one][1], facts[one][2]) for one in facts}, places)
    report.facts["images"] = (
        f"{len(places):,} files, {len(facts):,} with a good header; {report.facts['images']}"
    )
    usable = [all(one and sizes.get(one) == common for one in places) for places in images.values()]
    return screen, np.array(usable), common


def _incomplete(
    report: Report,
    screen: Screen,
    images: dict[int, list[Picture | None]],
    damaged: set[Picture],
) -> Screen:
    """Say which fields lack an image; return the screen without them if they are left out."""
    rows = [
        row
        for row in screen.table.index
        if any(one and one.whole in damaged for one in images[row])
    ]
    if not rows:
        return screen
    rest = screen.table.drop(index=rows)
    lost = wells_lost(screen.table, rest)
    text = (
        f"{len(rows):,} of {len(screen.table):,} fields lack an image or have a damaged one; "
        + (
            f"{len(lost):,} wells have no other: {', '.join(lost[:SHOWN])}"
            if lost
            else "no well is lost"
        )
    )
    if screen.reading.incomplete != "leave-out":
        report.add("field-incomplete", text)
        return screen
    report.add("field-left-out", text)
    if rest.empty:
        report.add("table-empty", "no field has all its images")
    return replace(screen, table=rest)


def _depths(
    report: Report,
    kinds: dict[Picture, tuple[str, str]],
    places: dict[Picture, tuple[int, str]],
) -> None:
    """Report the images of another type than most of their channel."""
    types = pd.DataFrame(list(kinds.values()), columns=["channel", "type"])
    usual = types.groupby("channel", sort=False)["type"].agg(lambda each: each.mode().iat[0])
    for one, (channel, kind) in kinds.items():
        if kind != usual[channel]:
            text = (
                f"{one.path}: expected {usual[channel]} as in most files of {channel}, got {kind}"
            )
            report.add("file-bits-differ", text, one.path, places[one][0], f"FileName_{channel}")
    depths = (
        f"{channel} {kind.removeprefix('uint')} bit"
        if kind.startswith("uint")
        else f"{channel} {kind}"
        for channel, kind in usual.items()
    )
    report.facts["images"] = ", ".join(depths)


def _opened(
    report: Report, places: dict[Picture, tuple[int, str]], workers: int, progress: bool
) -> tuple[dict[Picture, tuple[int, int, str]], set[Picture]]:
    """Return height, width and type of the images with a good header; report the others.

    Return also which are missing or damaged.
    """
    todo = list(places)
    parts = [
        todo[start : start + HEADERS_AT_ONCE] for start in range(0, len(todo), HEADERS_AT_ONCE)
    ]
    found: dict[Picture, tuple[int, int, str]] = {}
    damaged: set[Picture] = set()
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(todo), unit="file", desc="headers", disable=not progress) as bar,
    ):
        for part, facts in zip(
            parts, pool.map(lambda p: list(map(_header, p)), parts), strict=True
        ):
            for one, fact in zip(part, facts, strict=True):
                if len(fact) == 2:
                    row, channel = places[one]
                    report.add(*fact, one.path, row, f"FileName_{channel}")
                    damaged |= {one} if fact[0] in INCOMPLETE else set()
                else:
                    found[one] = fact
            bar.update(len(part))
    return found, damaged


# -------------------------------------------------------------------------------- pixels


def sample_rows(table: pd.DataFrame, most: int, seed: int) -> list[int]:
    """Return the index of up to `most` fields drawn at random, equally from all plates."""
    order = pd.Series(
        np.random.default_rng(seed).permutation(len(table)), table.index
    ).sort_values()
    plates = table["Metadata_Plate"].loc[order.index]
    turn = plates.groupby(plates).cumcount()
    return sorted(turn.sort_values(kind="stable").index[:most])


def sharpness(image: np.ndarray) -> float:
    """Return how much of an image's variance is fine.

    That is the variance of its Laplacian, over that of itself, both blurred by `BLUR` pixels. The
    measure of Pertuz, Puig & Garcia (2013, Pattern Recognition 46, 1415) called energy of the
    Laplacian, here over the variance, so that brightness and contrast do not count. In the central
    `SQUARE` pixels; NaN for a constant image.
    """
    top, left = (max(0, (side - SQUARE) // 2) for side in image.shape)
    part = image[top : top + SQUARE, left : left + SQUARE].astype(np.float32)
    spread = gaussian_filter(part, BLUR).var()
    return float(gaussian_laplace(part, BLUR).var() / spread) if spread > 0 else float("nan")


def measure(image: np.ndarray) -> dict[str, float | str]:
    """Return the grey values, the share at the ceiling, the sharpness and the digest of an image.

    The image is (H, W) uint16.
    """
    low, median, high = np.percentile(image, (1, 50, 99.9))
    top = int(image.max())
    return {
        "minimum": int(image.min()),
        "low": low,
        "median": median,
        "high": high,
        "maximum": top,
        "at_top": float((image == top).mean()),
        "sharpness": sharpness(image),
        "digest": hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest(),
    }


def _add_field(
    report: Report, screen: Screen, code: str, facts: pd.Series | dict, text: str
) -> None:
    """Add a finding on one measured image."""
    channel, index = facts["channel"], facts["index"]
    text = f"{_called(screen.table, index)}, {channel}: {text}"
    report.add(code, text, facts["path"], index, f"FileName_{channel}")


def _measured(screen: Screen, rows: list[int], workers: int, progress: bool) -> pd.DataFrame:
    """Return what `measure` finds in each image of these fields, or in ``wrong`` why it does not.

    ``dull``: nearly all pixels have one value.
    """
    sample, fields = replace(screen, table=screen.table.loc[rows]), len(screen.table)

    def read(parts: tuple[int, tuple[Picture, ...]]) -> list[dict]:
        index, images = parts
        found: list[dict] = []
        for one, channel in zip(images, screen.channels, strict=True):
            found.append({"index": index, "channel": channel, "path": one.path})
            try:
                image, notes = read_picture(one)
                small = bin_counts(image, auto_bin(image.shape, fields))
                dull = bool((small == np.median(small)).mean() >= ONE_VALUE)
                found[-1] |= measure(image) | {"dull": dull, "notes": notes}
            except InputError as error:
                found[-1] |= {"wrong": error.what, "code": fault(error, one)}
        return found

    jobs = zip(rows, pictures(sample), strict=True)
    with ThreadPoolExecutor(workers) as pool:
        parts = tqdm(
            pool.map(read, jobs), total=len(rows), unit="field", desc="pixels", disable=not progress
        )
        return pd.DataFrame([facts for part in parts for facts in part])


def _pixels(
    report: Report,
    screen: Screen,
    usable: pd.Series,
    most: int,
    seed: int,
    workers: int,
    progress: bool,
) -> None:
    """Measure a sample of fields whose headers are good."""
    whole = screen.table.loc[usable[screen.table.index], ["Metadata_Plate"]]
    rows = sample_rows(whole, most, seed) if len(whole) else []
    if not rows:
        report.add("check-not-made", "grey values, focus and copies: no field has all its images")
        return
    table = _measured(screen, rows, workers, progress)
    if "wrong" in table:
        for _, facts in table[table["wrong"].notna()].iterrows():
            _add_field(report, screen, facts["code"], facts, facts["wrong"])
        table = table[table["wrong"].isna()]
    if table.empty or "digest" not in table:
        report.add(
            "check-not-made",
            "grey values, focus and copies: no field of the sample could be decoded",
        )
        return
    _converted(report, table)
    plates = screen.table["Metadata_Plate"]
    dull = table[table["dull"].astype(bool)]
    for plate, channel in dict.fromkeys(
        zip(plates.loc[dull["index"]], dull["channel"], strict=True)
    ):
        part = replace(screen, table=screen.table[plates == plate], channels=(channel,))
        _spread(report, part, len(screen.table))
    report.tables["intensities"] = _judge(report, screen, table)
    report.facts["sample"] = (
        f"{len(rows)} fields drawn with seed {seed}, from {plates.loc[rows].nunique()} plates"
    )


def _converted(report: Report, table: pd.DataFrame) -> None:
    """Report what measured images were taken for, once for each kind."""
    for note, n in Counter(chain.from_iterable(table["notes"])).items():
        code = "values-changed" if note in APPROXIMATE else "image-read-as"
        report.add(code, f"{n:,} of {len(table):,} images of the sample: {note}")


def _spread(report: Report, plate: Screen, fields: int) -> None:
    """Report one channel of a plate if pre-processing would find no two grey values to tell apart.

    `fields` counts those of the whole screen.
    """
    histogram = np.zeros(COUNTS, np.int64)
    for (one,) in pictures(plate):
        try:
            image = read_image(one)
        except InputError:
            continue  # has been reported, or is not in the sample
        histogram += np.bincount(
            bin_counts(image, auto_bin(image.shape, fields)).ravel(), minlength=COUNTS
        )
    low, high = REFERENCES["plate-percentile"](histogram)
    if low >= high:
        name, channel = plate.table["Metadata_Plate"].iat[0], plate.channels[0]
        text = f"plate {name}, {channel}: nearly every pixel is {histogram.argmax()}"
        index, column = plate.table.index[0], f"FileName_{channel}"
        report.add("plate-without-spread", text, index=index, column=column)


def _judge(report: Report, screen: Screen, table: pd.DataFrame) -> pd.DataFrame:
    """Name the fields of a measured sample that should be looked at; return grey values."""
    flat = table["minimum"] == table["maximum"]
    for _, facts in table[flat].iterrows():
        text = f"every pixel is {facts['minimum']}"
        _add_field(report, screen, "field-constant", facts, text)
    copies = table[~flat & table["digest"].duplicated(keep=False)]
    for _, group in copies.groupby("digest", sort=False):
        first = group.iloc[0]
        name = f"{_called(screen.table, first['index'])}, {first['channel']} ({first['path']})"
        for _, facts in group.iloc[1:].iterrows():
            _add_field(report, screen, "pixels-identical", facts, f"the same pixels as {name}")
    top = table.groupby("channel")["maximum"].transform("max")
    saturated = (table["maximum"] == top) & top.isin(CEILINGS) & (table["at_top"] > SATURATED)
    saturated &= ~flat
    for _, facts in table[saturated].iterrows():
        text = f"{facts['at_top']:.1%} of the pixels are {facts['maximum']}"
        _add_field(report, screen, "field-saturated", facts, text)
    _dim_or_blurred(report, screen, table, flat)
    grouped = table.groupby("channel", sort=False)
    values = {
        "darkest": grouped["minimum"].min(),
        "1 %": grouped["low"].median().round(),
        "median": grouped["median"].median().round(),
        "99.9 %": grouped["high"].median().round(),
        "brightest": grouped["maximum"].max(),
        "saturated fields": saturated.groupby(table["channel"], sort=False).sum(),
    }
    return pd.DataFrame(values).astype(int).rename_axis("channel").reset_index()


def _dim_or_blurred(report: Report, screen: Screen, table: pd.DataFrame, flat: pd.Series) -> None:
    """Name the fields that show hardly any signal, and those out of focus."""
    span = table["high"] - table["low"]
    share = span / span.groupby(table["channel"]).transform("median").clip(lower=1)
    fields = (
        pd.DataFrame({"share": share, "sharp": np.log(table["sharpness"])})
        .groupby(table["index"])
        .agg({"share": "max", "sharp": "mean"})
    )
    empty = fields["share"] < EMPTY_SHARE
    images = table.drop_duplicates("index").set_index("index", drop=False)
    for index in fields.index[empty & ~flat.groupby(table["index"]).all()]:
        text = f"no channel spans more than {fields.at[index, 'share']:.1%} of the usual range"
        _add_field(report, screen, "field-empty", images.loc[index], text)
    sharp = fields.loc[~empty, "sharp"].dropna()
    middle = sharp.median()
    reach = max(DEVIATIONS * 1.4826 * (sharp - middle).abs().median(), np.log(FACTOR))
    for index in sharp.index[sharp < middle - reach]:
        text = f"sharpness {np.exp(sharp[index] - middle):.2f} of the median of the sample"
        _add_field(report, screen, "field-out-of-focus", images.loc[index], text)


# -------------------------------------------------------------------------------- layout


def plate_format(wells: Iterable[str]) -> tuple[int, int]:
    """Return rows and columns of the smallest plate of 24, 96, 384 or 1,536 that has `wells`."""
    places = [place(well) for well in set(wells)]
    row, column = max(r for r, _ in places), max(c for _, c in places)
    return next(
        size for size in ((4, 6), (8, 12), (16, 24), (32, 48)) if row < size[0] and column < size[1]
    )


def place(well: str) -> tuple[int, int]:
    """Return row and column of a well from 0: (1, 1) for B02."""
    letters = well.rstrip("0123456789")
    return sum((ord(letter) - 64) * 26**k for k, letter in enumerate(reversed(letters))) - 1, int(
        well[len(letters) :]
    ) - 1


def _layout(report: Report, screen: Screen) -> None:
    """Report what the layout of the screen confounds, and what its table does not say."""
    table = screen.table.assign(line=screen.table.index)
    wells = table.drop_duplicates(["Metadata_Plate", "Metadata_Well"]).copy()
    places = {well: place(well) for well in wells["Metadata_Well"].unique()}
    for number, axis in enumerate("yx"):
        wells[axis] = wells["Metadata_Well"].map({well: at[number] for well, at in places.items()})
    for check in (_fields_per_well, _controls, _treatments, _mechanisms, _doses, _names, _unknown):
        check(report, table, wells)


def _add_groups(
    report: Report, code: str, column: str, rows: pd.DataFrame, what: pd.Series | str
) -> None:
    """Add one finding per row of `rows`, whose index is the name of a group: "name: what".

    A row has the first ``line`` of its group.
    """
    texts = [what] * len(rows) if isinstance(what, str) else what.loc[rows.index]
    for name, line, text in zip(rows.index, rows["line"], texts, strict=True):
        name = name if isinstance(name, str) else ", ".join(name)
        report.add(code, f"{name}: {text}", index=line, column=column)


def _fields_per_well(report: Report, table: pd.DataFrame, wells: pd.DataFrame) -> None:
    counts = table.groupby(["Metadata_Plate", "Metadata_Well"]).agg(
        n=("line", "size"), line=("line", "first")
    )
    usual = counts["n"].mode().iat[0]
    odd = counts[counts["n"] != usual]
    texts = odd["n"].map(lambda n: f"{n} fields; most wells have {usual}")
    _add_groups(report, "fields-per-well", "Metadata_Site", odd, texts)
    report.facts["fields per well"] = f"{usual}" + (
        f", but {counts['n'].min()} to {counts['n'].max()} in {len(odd)} wells" if len(odd) else ""
    )


def _controls(report: Report, table: pd.DataFrame, wells: pd.DataFrame) -> None:
    controls = wells[wells["Metadata_control_type"] == "negcon"]
    if controls.empty:
        report.add(
            "controls-none",
            "no row has control type negcon (or the compound DMSO)",
            column="Metadata_control_type",
        )
        return
    bare = (
        wells[~wells["Metadata_Plate"].isin(controls["Metadata_Plate"])]
        .groupby("Metadata_Plate")
        .agg(line=("line", "first"))
    )
    _add_groups(
        report, "controls-not-on-plate", "Metadata_control_type", bare, "no negative control"
    )
    inner = {
        axis: wells[axis].between(wells[axis].min(), wells[axis].max(), inclusive="neither").any()
        for axis in "yx"
    }
    for axis, name in (("x", "columns"), ("y", "rows")):
        if inner[axis] and controls[axis].isin([wells[axis].min(), wells[axis].max()]).all():
            report.add(
                "controls-at-edge",
                f"all {len(controls)} wells with negative controls lie in the outermost {name} "
                "that are used",
                index=controls["line"].iloc[0],
                column="Metadata_Well",
            )


def _treatments(report: Report, table: pd.DataFrame, wells: pd.DataFrame) -> None:
    named = wells[wells["Metadata_Treatment"] != ""]
    kinds = named.drop_duplicates(["Metadata_Treatment", "Metadata_control_type"])
    kinds = kinds[kinds["Metadata_Treatment"].duplicated(keep=False)]
    mixed = kinds.groupby("Metadata_Treatment").agg(
        line=("line", "first"),
        types=("Metadata_control_type", lambda types: ", ".join(sorted(types))),
    )
    _add_groups(report, "control-type-mixed", "Metadata_control_type", mixed, mixed["types"])
    treated = named[named["Metadata_control_type"] == "trt"]
    if treated.empty:
        return
    rows, columns = plate_format(wells["Metadata_Well"])
    rim = treated["y"].isin([0, rows - 1]) | treated["x"].isin([0, columns - 1])
    groups = (
        treated.assign(rim=rim)
        .groupby("Metadata_Treatment")
        .agg(
            wells=("line", "size"),
            line=("line", "first"),
            plates=("Metadata_Plate", "nunique"),
            batches=("Metadata_Batch", "nunique"),
            places=("Metadata_Well", "nunique"),
            plate=("Metadata_Plate", "first"),
            batch=("Metadata_Batch", "first"),
            well=("Metadata_Well", "first"),
            y=("y", "nunique"),
            x=("x", "nunique"),
            rim=("rim", "all"),
        )
    )
    groups["rim"] &= not rim.all()
    _confounded(report, groups, wells)
    usual, least, most = groups["wells"].mode().iat[0], groups["wells"].min(), groups["wells"].max()
    odd = groups[(groups["wells"] != usual) & (groups["wells"] != 1)]
    texts = odd["wells"].map(lambda n: f"{n} wells; most treatments have {usual}")
    _add_groups(report, "replicates-uneven", "Metadata_Replicate", odd, texts)
    report.facts["wells per treatment"] = f"{usual}" + (
        f", but {least} to {most} elsewhere" if least < most else ""
    )


def _confounded(report: Report, groups: pd.DataFrame, wells: pd.DataFrame) -> None:
    """Report the treatments that a plate, a batch or a place tells apart as well."""
    batches = wells.loc[wells["Metadata_Batch"] != "", "Metadata_Batch"]
    single, n = groups["wells"] == 1, groups.astype(str)
    plate = ~single & (groups["plates"] == 1) & (wells["Metadata_Plate"].nunique() > 1)
    batch = ~single & ~plate & (groups["batches"] == 1) & (groups["batch"] != "")
    in_row = groups["y"] == 1
    line = n["places"] + " wells, all in the " + np.where(in_row, "row", "column") + " of "
    for code, column, chosen, texts in (
        ("treatment-in-one-well", "Well", single, "plate " + n["plate"] + ", " + n["well"]),
        (
            "treatment-on-one-plate",
            "Plate",
            plate,
            n["wells"] + " wells, all on plate " + n["plate"],
        ),
        (
            "treatment-in-one-batch",
            "Batch",
            batch & (batches.nunique() > 1),
            n["plates"] + " plates, all of batch " + n["batch"],
        ),
        (
            "position-fixed",
            "Well",
            ~single & (groups["places"] == 1),
            "in " + n["well"] + " on all of " + n["plates"] + " plates",
        ),
        (
            "line-fixed",
            "Well",
            (groups["places"] >= 3) & (in_row | (groups["x"] == 1)),
            line + n["well"],
        ),
        ("edge-only", "Well", groups["rim"], "at the rim, as in " + n["well"]),
    ):
        _add_groups(report, code, f"Metadata_{column}", groups[chosen], texts)


def _mechanisms(report: Report, table: pd.DataFrame, wells: pd.DataFrame) -> None:
    known = wells[(wells["Metadata_MoA"] != "") & (wells["Metadata_control_type"] == "trt")]
    groups = known.groupby("Metadata_MoA").agg(
        compounds=("Metadata_Compound", "nunique"),
        batches=("Metadata_Batch", "nunique"),
        batch=("Metadata_Batch", "first"),
        line=("line", "first"),
        compound=("Metadata_Compound", "first"),
    )
    lone = groups[groups["compounds"] == 1]
    _add_groups(
        report, "mechanism-of-one-compound", "Metadata_MoA", lone, "only " + lone["compound"]
    )
    if wells["Metadata_Batch"].nunique() > 1:
        nested = groups[(groups["batches"] == 1) & (groups["batch"] != "")]
        texts = "only in batch " + nested["batch"]
        _add_groups(report, "mechanism-in-one-batch", "Metadata_MoA", nested, texts)
    batches = (
        wells[wells["Metadata_Batch"] != ""]
        .groupby("Metadata_Plate")
        .agg(n=("Metadata_Batch", "nunique"), line=("line", "first"))
    )
    several, texts = batches[batches["n"] > 1], batches["n"].astype(str) + " batches"
    _add_groups(report, "plate-in-batches", "Metadata_Batch", several, texts)


def _doses(report: Report, table: pd.DataFrame, wells: pd.DataFrame) -> None:
    dosed = wells[
        (wells["Metadata_control_type"] == "trt")
        & wells["Metadata_Concentration"].notna()
        & (wells["Metadata_Compound"] != "")
    ]
    groups = dosed.groupby("Metadata_Compound").agg(
        doses=("Metadata_Concentration", "nunique"), line=("line", "first")
    )
    few = groups[groups["doses"] < DOSES]
    texts = few["doses"].map(lambda n: f"{n} concentration{'s' * (n > 1)}")
    _add_groups(report, "doses-few", "Metadata_Concentration", few, texts)
    for axis, name in (("x", "columns"), ("y", "rows")):
        lines = (
            dosed.groupby(["Metadata_Compound", "Metadata_Concentration"])[axis]
            .agg(["nunique", "first"])
            .sort_index()
        )
        step = lines["first"].groupby("Metadata_Compound").diff()  # missing at the first dose
        lines = lines.assign(up=step.isna() | (step > 0), down=step.isna() | (step < 0))
        along = lines.groupby("Metadata_Compound").agg(
            once=("nunique", "max"), n=("first", "size"), up=("up", "all"), down=("down", "all")
        )
        along = along[(along["once"] == 1) & (along["n"] >= DOSES) & (along["up"] | along["down"])]
        texts = along["up"].map({True: "rises", False: "falls"}) + f" along the {name}"
        rows = groups.loc[along.index]
        _add_groups(report, "dose-along-line", "Metadata_Concentration", rows, texts)


def _names(report: Report, table: pd.DataFrame, wells: pd.DataFrame) -> None:
    for column in table:
        if not column.startswith("Metadata_") or column in ("Metadata_Treatment", "Metadata_Tile"):
            continue
        values = table[column].drop_duplicates()
        values = values[values.map(lambda value: isinstance(value, str) and value != "")]
        for index, value in values.items():
            if not value.isprintable() or len(value) > LONGEST:
                text = f"{column[9:]} {value!r}"
                report.add("name-strange", text, index=index, column=column)
        if column in ("Metadata_Compound", "Metadata_MoA", "Metadata_Plate", "Metadata_Batch"):
            plain = values.map(lambda value: re.sub(r"[\s_-]", "", value).casefold())
            for _, group in values[plain.duplicated(keep=False)].groupby(plain):
                text = f"{column[9:]} {', '.join(map(repr, group))}"
                report.add("names-alike", text, index=group.index[1], column=column)


def _unknown(report: Report, table: pd.DataFrame, wells: pd.DataFrame) -> None:
    treated = table["Metadata_control_type"] == "trt"
    dose = table["Metadata_Concentration"][treated]
    for code, values, text in (
        ("compounds-unknown", table["Metadata_Compound"], "every row is without a compound"),
        ("doses-unknown", dose, "every treated row is without a concentration"),
        ("mechanisms-unknown", table["Metadata_MoA"], "every row is without a mechanism"),
    ):
        if (values.isna() | (values == "")).all():
            report.add(code, text, column=str(values.name))
    without = table[table["Metadata_Batch"] == ""]
    if len(without):
        text = f"{len(without):,} of {len(table):,} fields name no batch"
        report.add("batches-unknown", text, index=without.index[0], column="Metadata_Batch")


# ------------------------------------------------------------------------------- classes


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Return what could define surrogate classes, one row per choice of columns.

    The book's own choice comes first. Columns: ``columns`` (comma-separated, as SURROGATE takes
    them), ``classes``, ``fewest``, ``median``, ``most`` (fields per class), ``single`` (classes of
    one field), ``unnamed`` (fields to train on without a value), ``usable`` (bool), ``instead``
    (what the network could learn in place of the biology).
    """
    columns = [name for name in table if name.startswith("Metadata_")]
    known = {*REQUIRED, *DEFAULTS, "Metadata_Treatment", "Metadata_Tile"}
    training = table.loc[training_fields(table), columns]
    choices = [
        default_columns(table),
        ["Metadata_Compound"],
        ["Metadata_Compound", "Metadata_Concentration"],
        ["Metadata_Plate", "Metadata_Well"],
        ["Metadata_Well"],
        ["Metadata_MoA"],
        ["Metadata_Plate"],
        ["Metadata_Batch"],
        *([name] for name in columns if name not in known),
    ]
    rows = [_candidate(training, list(by)) for by in dict.fromkeys(map(tuple, choices))]
    return pd.DataFrame(filter(None, rows), columns=CANDIDATE)


def _candidate(training: pd.DataFrame, by: list[str]) -> dict[str, Any]:
    """Return the row of `candidates` for one choice of columns, nothing if no field names them."""
    named = ~unnamed(training, by)
    if not named.any():
        return {}
    names = class_names(training, by)[named]
    sizes = np.bincount(names.cat.codes)
    sizes = sizes[sizes > 0]
    return {
        "columns": ",".join(by),
        "classes": len(sizes),
        "fewest": sizes.min(),
        "median": int(np.median(sizes)),
        "most": sizes.max(),
        "single": int((sizes == 1).sum()),
        "unnamed": int((~named).sum()),
        "usable": len(sizes) > 1 and named.all() and sizes.min() > 1,
        "instead": _instead(training[named], names, by),
    }


def _instead(training: pd.DataFrame, names: pd.Series, by: list[str]) -> str:
    """Say what else tells the classes apart."""
    if by in (["Metadata_Plate"], ["Metadata_Batch"]):
        return "nothing but the plate or batch: no biology, a check of how strong its mark is"
    marks = []
    if by == ["Metadata_MoA"]:
        marks.append("the answer itself: a supervised network, its figures are optimistic")
    for name, what in (("Plate", "plate"), ("Batch", "batch"), ("Well", "well position")):
        column = f"Metadata_{name}"
        if column not in by and training[column].nunique() > 1:
            _, pairs = joint_codes(names, training[column])
            of_class = np.bincount(names.cat.codes.iloc[pairs])
            nested = float((of_class[of_class > 0] == 1).mean())
            if nested > 0:
                marks.append(f"the {what} ({nested:.0%} of classes have one)")
    if "Metadata_Well" in by and "Metadata_Plate" in by:
        marks.append("the well itself: its plate and its place")
    return "; ".join(marks) or "nothing that this table shows"


def _classes(report: Report, screen: Screen, whole: bool) -> str:
    """Add the table of candidates and what is wrong with the first.

    Where rows are left out for their errors, the screen is not `whole`: that a class lacks fields
    then follows from them. Return the SURROGATE to propose, "" for the book's own.
    """
    table = screen.table
    if not whole:
        report.tables["classes"] = candidates(table)
        return ""
    if not training_fields(table).any():
        report.add(
            "classes-too-few",
            "every field is a control: there is nothing to train on",
            column="Metadata_control_type",
        )
        return ""
    found = report.tables["classes"] = candidates(table)
    by = default_columns(table)
    own = found[found["columns"] == ",".join(by)]
    classes = int(found["classes"].iloc[0]) if len(found) else 0
    if own.index.tolist() != [0] or classes < 2:
        text = f"{', '.join(by)} gives {classes} classes"
        report.add("classes-too-few", text, column=by[0])
    else:
        _members(report, table, by)
    choices = found[
        found["usable"]
        & ~found["columns"].isin(["Metadata_MoA", "Metadata_Plate", "Metadata_Batch"])
    ]
    return "" if choices.empty or choices.index[0] == 0 else choices["columns"].iloc[0]


def _members(report: Report, table: pd.DataFrame, by: list[str]) -> None:
    """Name the fields that are alone in their class by these columns, or in none."""
    training = table.loc[training_fields(table), by]
    names = class_names(training, by)
    lone = dict(names[~names.duplicated(keep=False)])
    empty = training.index[unnamed(training, by)].tolist()
    columns = ", ".join(by)
    for index in sorted(lone):
        text = f"class {lone[index]!r} by {columns}"
        report.add("class-of-one-field", text, index=index, column=by[0])
    for index in sorted(empty)[:KEPT]:
        text = f"{_called(table, index)}: a field to train on names no {columns}"
        report.add("cell-empty", text, index=index, column=by[0])
    report.added["cell-empty"] += max(0, len(empty) - KEPT)


# ----------------------------------------------------------------------------- the report


def plate_maps(screen: Screen) -> list[dict]:
    """Return each distinct plate layout once, with the names of its plates.

    There are up to `MAPS` layouts and `MAP_WELLS` wells.
    """
    wells = screen.table.drop_duplicates(["Metadata_Plate", "Metadata_Well"])
    size = plate_format(wells["Metadata_Well"])
    layouts: dict[tuple, list[str]] = {}
    for plate, group in wells.groupby("Metadata_Plate", sort=False):
        parts = (group[f"Metadata_{name}"] for name in ("Well", "control_type", "Treatment"))
        layouts.setdefault(tuple(sorted(zip(*parts, strict=True))), []).append(plate)
    maps: list[dict] = []
    drawn = 0
    for layout, plates in list(layouts.items())[:MAPS]:
        drawn += len(layout)
        if maps and drawn > MAP_WELLS:
            break
        maps.append(_map(layout, size) | {"plates": plates})
    return maps


def _map(layout: Iterable[tuple[str, str, str]], size: tuple[int, int]) -> dict[str, Any]:
    """Return one plate map; a well has its name, control type and treatment."""
    spots = []
    for well, kind, treatment in layout:
        y, x = place(well)
        spots.append({"well": well, "y": y, "x": x, "kind": kind, "what": treatment})
    kinds = Counter(spot["kind"] for spot in spots)
    names = {"trt": "treated", "negcon": "negative control", "poscon": "positive control"}
    words = [f"{kinds[kind]} {name}" for kind, name in names.items() if kinds[kind]]
    words.append(f"{size[0] * size[1] - len(spots)} empty")
    return {"rows": size[0], "columns": size[1], "spots": spots, "text": ", ".join(words)}


def _facts(report: Report, screen: Screen, shape: tuple[int, int] | None) -> None:
    counts = summary(screen.table)
    kinds = screen.table.drop_duplicates(["Metadata_Plate", "Metadata_Well"])[
        "Metadata_control_type"
    ].value_counts()
    report.plates = counts["n_plates"]
    report.facts = {
        "fields": f"{counts['n_fields']:,}",
        "wells": f"{counts['n_wells']:,} wells on {counts['n_plates']} "
        f"plate{'s' * (counts['n_plates'] > 1)}"
        + (
            f" of {counts['n_batches']} batch{'es' * (counts['n_batches'] > 1)}"
            if (screen.table["Metadata_Batch"] != "").any()
            else ""
        ),
        "channels": ", ".join(screen.channels),
        "size of a field": f"{shape[0]} x {shape[1]} pixels" if shape else "unknown",
        "treated wells": f"{kinds.get('trt', 0):,}",
        "negative controls": f"{kinds.get('negcon', 0):,} wells",
        "positive controls": f"{kinds.get('poscon', 0):,} wells",
        "treatments": f"{counts['n_treatments']:,}, of which {counts['n_annotated']:,} have a "
        f"mechanism ({counts['n_mechanisms']:,} mechanisms)",
    } | report.facts


def _costs(screen: Screen, shape: tuple[int, int], classes: int) -> pd.DataFrame:
    """Return what each stage of the book will cost on this machine."""
    from mcnn_book.check.cost import Workload, predict, read_bench  # with PyTorch, which takes long

    table = screen.table
    training = int(training_fields(table).sum())
    size = (len(table), *shape, len(screen.channels), classes)
    cost = predict(read_bench(), Workload(*size, cores=os.cpu_count() or 1, training=training))
    # One on treatments, one with the controls as a class for the whole screen, one on the
    # mechanisms for comparison.
    negative = (table["Metadata_control_type"] == "negcon").any()
    networks = 1 + negative + (table["Metadata_MoA"] != "").any()
    cost = cost[cost["stage"] != "simulate"].reset_index(drop=True)
    cost["seconds"] *= np.where(cost["stage"].isin(["train", "embed"]), networks, 1)
    name = f"train {networks} network{'s' * int(networks > 1)}"
    cost["stage"] = cost["stage"].replace({"train": name})
    return pd.concat([cost, pd.DataFrame([REST])], ignore_index=True)


def _cost(report: Report, screen: Screen, shape: tuple[int, int] | None, out: Path) -> None:
    """Add what the book will cost on this machine, and say where it has too little."""
    classes = report.tables.get("classes")
    try:
        if shape is None or classes is None or classes.empty:
            raise MissingStageError("size of fields or number of classes is unknown")
        cost = _costs(screen, shape, int(classes["classes"].iloc[0]))
    except MissingStageError as error:
        report.add("check-not-made", f"run time, memory and disk: {error}")
        return
    report.tables["cost"] = cost
    folder = next(parent for parent in (out.resolve(), *out.resolve().parents) if parent.is_dir())
    needed, free = cost["disk_bytes"].sum(), shutil.disk_usage(folder).free
    if free < needed:
        text = f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
        report.add("disk-small", text, str(folder))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for stage in cost[cost["memory_bytes"] > memory].itertuples():
        text = f"{stage.stage}: {stage.memory_bytes / 1e9:.1f} GB are needed, the machine has "
        report.add("memory-small", f"{text}{memory / 1e9:.1f} GB")


def _quoted(variable: str, value: str) -> str:
    """Return VARIABLE=value for a shell that runs make; make itself wants each dollar doubled."""
    return f"{variable}={shlex.quote(value.replace('$', '$$'))}"


def _command(name: str, data: str, out: str | os.PathLike, surrogate: str, reading: Reading) -> str:
    """Return the command that builds the book of a screen."""
    chosen = [
        f"{key}={getattr(reading, key)}"
        for key in CHOICES
        if getattr(reading, key) != getattr(PLAIN, key)
    ]
    values = {
        "SCREEN": str(Path(name).resolve()) if is_table(name) else name,
        "DATA": os.pathsep.join(map(str, reading.data)) or (data and str(Path(data).resolve())),
        "PLATEMAP": str(reading.platemap.resolve()) if reading.platemap else "",
        "CHANNELS": ",".join(reading.channels),
        "OUT": str(Path(out).resolve()),
        "SURROGATE": surrogate,
        "PARAMS": " ".join(["reference=plate-percentile", *chosen]),
    }
    return " ".join(["make book", *(_quoted(*pair) for pair in values.items() if pair[1])])


def _refused(report: Report, error: InputError) -> None:
    """Add why a screen could not be opened."""
    for one in error.problems or [error.what]:
        problem = one if isinstance(one, Problem) else Problem(one, "layout-wrong")
        if problem not in report.problems:
            report.problems.append(problem)
    report.add("check-not-made", f"files, layout, classes and cost: {error.what}")


def check(
    name: str,
    data: str = "",
    out: str | os.PathLike = "_build",
    sample: int = SAMPLE,
    seed: int = 0,
    workers: int = 8,
    progress: bool = False,
    reading: Reading = PLAIN,
) -> Report:
    """Examine a screen: its table, every file's header, the pixels of a sample, its layout.

    Parameters
    ----------
    name : str
        Path of a LoadData .csv, "bbbc021" or "kimorph".
    data : str
        Folder of the latter two.
    out : path
        Where the book will be written: the room there is compared with what is needed.
    sample, seed : int
        Fields whose pixels are read, more where they are small, and how they are drawn.
    workers : int
        Threads.
    progress : bool
        Show bars.
    reading : Reading
        How a table is to be read.

    Returns
    -------
    Report
        Nothing that is wrong with the screen raises.
    """
    report = Report(Path(name).name, name if not data else f"{name} in {data}")
    try:
        screen, files = _open(report, name, data, reading)
    except InputError as error:
        _refused(report, error)
        return report
    report.name, report.root = screen.name, os.path.join(screen.root, "")
    if reading.incomplete == "leave-out":
        report.instead = dict.fromkeys(INCOMPLETE, "field-left-out")
    missing = {one.column for one in report.problems if one.code == "column-missing"}
    missing &= set(REQUIRED)
    wrong, surrogate = len(files) - len(screen.table), ""
    screen, usable, shape = _headers(report, screen, files, workers, progress)
    if wrong:
        report.add(
            "check-not-made",
            f"layout, classes and pixels of {wrong:,} of {len(files):,} rows, which have errors; "
            "counts are of the others",
        )
    if len(screen.table):
        small = min(MOST, SAMPLE * 1024 * 1280 // (shape[0] * shape[1])) if shape else 0
        good, most = pd.Series(usable, files.index), max(sample, small)
        _pixels(report, screen, good, most, seed, workers, progress)
        if missing:
            names = ", ".join(sorted(missing))
            report.add("check-not-made", f"layout and classes: {names} is missing")
        else:
            surrogate = _classes(report, screen, whole=not wrong)
            _layout(report, screen)
            report.maps = plate_maps(screen)
        _facts(report, screen, shape)
    _cost(report, screen, shape, Path(out))
    dmso = "centre" in possible_normalisations(screen.table) and not missing
    report.facts["references"] = "plate-percentile" + (
        ", or dmso: every plate has controls"
        if dmso
        else "; dmso needs negative controls on every plate"
    )
    report.command = _command(name, data, out, surrogate, reading)
    return report


# -------------------------------------------------------------------------------- telling


def duration(seconds: float) -> str:
    """Return a time in words that promise no more than an estimate holds: "about 40 minutes"."""
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"about {float(f'{seconds / size:.2g}'):g} {name}"
    return f"about {max(1, round(seconds))} seconds"


def verdict(report: Report) -> tuple[str, str]:
    """Return the verdict in one line, and what to do in another."""
    counts = report.counts()
    kinds = report.frame().groupby("severity")["code"].nunique().to_dict()
    if counts["error"]:
        plural = "s" * (counts["error"] > 1)
        return (
            f"Not ready: {counts['error']:,} error{plural} of {kinds['error']} "
            f"kind{'s' * (kinds['error'] > 1)}",
            f"Correct the error{plural} below and run make check again: the book would stop at "
            f"{'them' if plural else 'it'}.",
        )
    if counts["warning"]:
        return (
            f"Ready, with {kinds['warning']} kind{'s' * (kinds['warning'] > 1)} of warning",
            "The book can be built. Read the warnings first: they limit what its results mean.",
        )
    return "Ready", "Nothing wrong was found."


def grouped(report: Report) -> list[dict]:
    """Return of each code, errors first: its entry of `codes`, ``n``, and the first ``items``."""
    frame, counts = report.frame(), report.by_code()
    return [
        {
            **_KNOWN[code],
            "n": counts[code],
            "items": part.head(SHOWN).to_dict("records"),
            "rest": max(0, counts[code] - SHOWN),
        }
        for code, part in frame.groupby("code", sort=False)
    ]


def terminal(report: Report) -> str:
    """Return the report in some lines of text."""
    head, advice = verdict(report)
    parts = {
        "fields": "{} fields",
        "wells": "{}",
        "channels": "channels {}",
        "size of a field": "{}",
    }
    size = ", ".join(
        words.format(report.facts[key]) for key, words in parts.items() if key in report.facts
    )
    lines = [visible(report.name + (f": {size}" if size else ""), 400), "", head, advice]
    everything = grouped(report)
    for severity in SEVERITIES:
        groups = [group for group in everything if group["severity"] == severity]
        lines += ["", f"{severity}s"] if groups else []
        for group in groups:
            lines.append(f"  {group['code']} ({group['n']:,}): {group['meaning']}")
            important = severity == "error" or group["code"] in TOLD
            read = group["code"] in READ
            if important or read or severity == "warning":
                shown = group["items"][: SHOWN if read else PRINTED if important else 1]
                lines += [f"      {visible(readable(report, item))}" for item in shown]
                more = group["n"] - len(shown)
                lines += [f"      ... and {more:,} more"] if more > 0 else []
                lines.append(f"    -> {group['remedy']}")
    if "cost" in report.tables:
        lines += ["", visible(_cost_line(report))]
    if report.command:
        lines += [
            "",
            "once the errors are corrected:" if report.counts()["error"] else "to build the book:",
            f"  {visible(report.command, 10_000)}",
        ]
    return "\n".join(lines)


def readable(report: Report, item: dict) -> str:
    """Return a finding for people: its place unless the message names it, and shorter paths."""
    message = item["message"].replace(f"{report.source}, ", "")
    message = message.replace(report.root, "") if len(report.root) > 1 else message
    row = (
        ""
        if pd.isna(item["row"]) or f"line {item['row']:.0f}" in message
        else f"line {item['row']:.0f}"
    )
    column = item["column"] if item["column"] not in message else ""
    return ", ".join(part for part in (row, column) if part) + ": " * bool(row or column) + message


def _cost_line(report: Report) -> str:
    cost = report.tables["cost"]
    return (
        f"Estimated: {duration(cost['seconds'].sum())} on {os.cpu_count()} processor cores, "
        f"{cost['memory_bytes'].max() / 1e9:.1f} GB of memory, "
        f"{cost['disk_bytes'].sum() / 1e9:.2f} GB of disk"
    )


def page(report: Report) -> str:
    """Return the report as one HTML page that needs nothing else."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "visible": visible,
        "readable": lambda item: readable(report, item),
        "duration": duration,
    }
    template = environment.from_string(
        Path(__file__).with_name("check.html.jinja").read_text(encoding="utf-8")
    )
    head, advice = verdict(report)
    limits = {
        "sample": SAMPLE,
        "most": MOST,
        "square": SQUARE,
        "blur": BLUR,
        "deviations": DEVIATIONS,
        "factor": FACTOR,
        "empty": EMPTY_SHARE,
        "saturated": SATURATED,
        "maps": MAPS,
        "shown": SHOWN,
    }
    return template.render(
        report=report,
        head=head,
        advice=advice,
        groups=grouped(report),
        counts=report.counts(),
        sizes=limits,
        cost=_cost_line(report) if "cost" in report.tables else "",
        cores=os.cpu_count(),
    )


def write(report: Report, out: str | os.PathLike) -> None:
    """Write ``check.html`` and ``check.json`` into the folder `out`."""
    with atomic(Path(out) / "check.html") as temporary:
        temporary.write_text(page(report), encoding="utf-8")
    rows = report.frame().to_dict("records")
    write_json(
        Path(out) / "check.json",
        [row | {"row": None if pd.isna(row["row"]) else int(row["row"])} for row in rows],
    )
