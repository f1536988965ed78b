"""KiMorph's own layout: a folder per plate barcode and well, a file per channel, conf files.

The conf files are tab-separated. The layout is that of imageHTS (Pau, Zhang, Boutros & Huber,
Bioconductor), in which KiMorph (Fuchs et al. 2010, Molecular Systems Biology 6, 370) is published:
``imageconf.txt`` says where the pictures lie, ``plateconf.txt`` what is in the wells,
``screenlog.txt`` which wells failed and ``annotation.txt`` which gene a siRNA silences.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from mcnn_core.errors import InputError, Problem
from mcnn_core.machine.files import first_few
from mcnn_core.readers.images import image_shape
from mcnn_core.readers.loaddata import MAX_CHANNELS
from mcnn_core.readers.spelling import (
    SPELLINGS,
    control_type,
    is_missing,
    key,
    like_a_control,
    number,
    well,
)
from mcnn_core.readers.tables import decoded_text, read_cells
from mcnn_core.screen import Screen, repeated, treatment_key

#: Height and width in pixels of one field in KiMorph's sample files, 510 x 1024: the background
#: steps by 0.45 grey levels at column 672 (by 0.2 at most elsewhere) and each side has its own
#: vignetting, so that a file holds one whole field and the left half of the next one to its right.
#: There is no seam between rows.
KIMORPH_FIELD, KIMORPH_FILE = (510, 672), (510, 1024)


#: DNA, actin, tubulin: the order of our channels where a screen has just these.
KIMORPH_CHANNELS = ("Hoechst", "Tritc", "FITC")


#: Contents that are negative controls; all others but these two are positive ones.
NEGATIVE = ("rluc", "neg")


SAMPLE, EMPTY = "sample", "empty"


#: Wells of all plates and replicates; genome-wide screens have some 200,000.
MAX_WELLS = 2**19


#: Characters of a wildcard, and repetitions in it: its time grows with a power of both.
MAX_WILDCARD, MAX_REPEATS = 64, 4


#: Text that stands for nothing in an annotation, next to what `is_missing` knows.
NOTHING = ("", "empty", "withdrawn", "discontinued")


#: What spreadsheets make of symbols such as MARCH1, SEPT2 and DEC1.
DATE = re.compile(
    r"\d{1,2}-(mar|sep|sept|dec|oct|nov)|(mar|sep|sept|dec|oct|nov)-\d{2}|\d{4}-\d\d-\d\d.*",
    re.IGNORECASE,
)


#: Columns of the conf files, with their other spellings, in the order of preference.
FIELDS = {
    **{name: SPELLINGS[f"Metadata_{name}"] for name in ("Plate", "Well")},
    "Replicate": ["Sample", *SPELLINGS["Metadata_Replicate"]],
    "Content": ["Contents", "Well_Content", "Well_Anno", "Well_Annotation", "Content_Type"],
    "Flag": ["Flags"],
    "siRNAID": ["siRNA", "siRNA_Name", "siRNA_Identifier", "Reagent_ID"],
    "GeneID": ["Gene_Symbol", "Symbol", "Gene", "Gene_Name", "HGNC_Symbol"],
    "LocusID": ["Locus", "Entrez", "Entrez_ID", "Entrez_Gene", "Entrez_Gene_ID", "NCBI_Gene_ID"],
    "controlStatus": [],
}


def read_conf(path: str | os.PathLike) -> dict[str, list[str]]:
    """Read the ``Name: value, value`` lines of a conf file; other lines are passed over.

    Known names count in upper and lower case alike.
    """
    known = {name.lower(): name for name in ("SourceFilenamePattern", *PARTS.values(), *OTHERS)}
    lines = (
        line.partition(":")
        for line in decoded_text(path).splitlines()
        if ":" in line.partition("\t")[0]
    )
    return {
        known.get(name.strip().lower(), name.strip()): [
            value.strip() for value in values.split(",") if value.strip()
        ]
        for name, _, values in lines
    }


def _read_table(path: Path, required: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Read a table as text under the names of `FIELDS`; the index k is line k + 1 of the file.

    Also returns one problem per missing column and per line that has other cells than the header.
    """
    rows, problems = read_cells(path)
    wrong: list[str] = [problem for problem in problems if problem.severity == "error"]
    wrong += [f"{path}: column {name} occurs twice" for name in repeated(rows.columns)]
    rows = rows.loc[:, ~rows.columns.duplicated()]
    for name, others in FIELDS.items():
        for spelling in (name, *others):
            found = [one for one in rows if key(one) == key(spelling)]
            if found and name not in rows:
                rows = rows.rename(columns={found[0]: name})
    absent = [name for name in required if name not in rows]
    wrong += [f"{path}: column {name} is missing" for name in absent]
    return rows.apply(lambda cells: cells.str.strip()).reindex(
        columns=[*rows, *absent], fill_value=""
    ).iloc[: 0 if absent else None], wrong


def _plain(text: str, read: Callable[[str], str]) -> str:
    """Return a place as `read` spells it, where it is one place and no wildcard."""
    return text if re.search(r"[*?|()\[\]]|\.(?!0*$)", text) else read(text) or text


# ------------------------------------------------------------------------- conf files


#: The parts of a file name, and the fields of ``imageconf.txt`` that list them.
PARTS = {
    "plate": "PlateNames",
    "replicate": "ReplicateNames",
    "row": "RowNames",
    "col": "ColNames",
    "spot": "SpotNames",
    "channel": "ChannelNames",
}


#: Other known fields of the conf files.
OTHERS = ("Montage", "Wells", "Plates")


def _name_problems(path: Path, conf: dict[str, list[str]]) -> list[str]:
    """Say what is wrong with the fields of ``imageconf.txt`` by which images are found."""
    listed = {name: conf[name] for name in PARTS.values()}
    pattern = ", ".join(conf["SourceFilenamePattern"])
    problems = [
        f"{value!r} has a character that no file name has"
        for value in (pattern, *(value for values in listed.values() for value in values))
        if not value.isprintable()
    ]
    problems += [
        f"{name} has {len(listed[name])} values and SourceFilenamePattern lacks {{{part}}}"
        for part, name in PARTS.items()
        if len(listed[name]) > 1 and f"{{{part}}}" not in pattern
    ]
    problems += [
        f"SourceFilenamePattern: {{{part}}} is not one of "
        f"{', '.join(f'{{{name}}}' for name in PARTS)}"
        for part in re.findall(r"\{([^}]*)\}", pattern)
        if part not in PARTS
    ]
    problems += [
        f"{name}: {value!r} occurs twice"
        for name, values in listed.items()
        for value in repeated(values)
    ]
    wells = math.prod(len(listed[name]) for name in list(PARTS.values())[:-1])
    if wells > MAX_WELLS:
        raise InputError(f"{path}: expected at most {MAX_WELLS:,} wells in all, got {wells:,}")
    problems += [
        f"RowNames and ColNames: {row + column!r} is not a well"
        for row, column in product(conf["RowNames"], conf["ColNames"])
        if not well(row + column)
    ]
    if len(conf["ChannelNames"]) > MAX_CHANNELS:
        problems.append(f"expected 1 to {MAX_CHANNELS} channels, got {len(conf['ChannelNames'])}")
    return problems


def _image_conf(path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return the fields of ``imageconf.txt`` and the wells in order, or refuse it."""
    conf = read_conf(path)
    pattern = ", ".join(conf.get("SourceFilenamePattern", [])).replace("\\", "/")
    conf = {"SpotNames": ["1"] * ("{spot}" not in pattern)} | conf
    conf["SourceFilenamePattern"] = pattern.split(", ") if pattern else []
    problems = [
        f"field {name} is missing"
        for name in ("SourceFilenamePattern", *PARTS.values())
        if not conf.get(name)
    ] or _name_problems(path, conf)
    montage = conf.get("Montage", ["1", "1"])
    if len(montage) != 2 or not all(re.fullmatch("[1-9][0-9]?", number) for number in montage):
        problems.append(
            "Montage: expected the columns and rows of fields, as in 2, 2, got "
            f"{', '.join(montage)!r}"
        )
    if problems:
        raise InputError(f"{path}: invalid image conf of a screen", problems)
    return conf, [well(row + column) for row, column in product(conf["RowNames"], conf["ColNames"])]


def _matcher(pattern: str) -> re.Pattern:
    """Return what a wildcard such as ``*`` or ``[AB]05`` matches; a star stands for any text."""
    if not re.fullmatch(r"[\w\[\]\-*.?|()]+", pattern, re.ASCII):
        raise re.error("expected letters, digits and [ ] - * . ? | ( )")
    if len(pattern) > MAX_WILDCARD or len(re.findall("[*?]", pattern)) > MAX_REPEATS:
        raise re.error(
            f"expected at most {MAX_WILDCARD} characters and {MAX_REPEATS} of * and ?; use several "
            "rows"
        )
    return re.compile(re.sub(r"(?<!\.)\*", ".*", pattern), re.IGNORECASE | re.ASCII)


#: Where a row of ``plateconf.txt`` applies, and what reads it.
PLACES = (("Plate", number), ("Well", well))


def _rules(
    path: Path, rows: pd.DataFrame, plates: int, wells: list[str]
) -> tuple[np.ndarray, list[str]]:
    """Return the last row of ``plateconf.txt`` that matches each plate and well, -1 for none.

    Return also a problem for each row that cannot be used.
    """
    row_of, problems = np.full((plates, len(wells)), -1), []
    numbers = list(map(str, range(1, plates + 1)))
    matching = cache(
        lambda wildcard, of_plates: np.array(
            [bool(_matcher(wildcard).fullmatch(name)) for name in (numbers if of_plates else wells)]
        )
    )
    places = (rows[name].map(lambda text, read=read: _plain(text, read)) for name, read in PLACES)
    columns = (*places, rows["Content"])
    for row, (index, plate, name, content) in enumerate(zip(rows.index, *columns, strict=True)):
        where = f"{path}, line {index + 1}"
        try:
            of_plates, of_wells = matching(plate, True), matching(name, False)
        except re.error as error:
            problems.append(f"{where}: {plate!r}, {name!r} is not a wildcard: {error}")
            continue
        if not of_plates.any() or not of_wells.any():
            problems.append(f"{where}: plate {plate!r}, well {name!r} is not a well of this screen")
        if not content:
            problems.append(f"{where}: Content is empty")
        row_of[np.ix_(of_plates, of_wells)] = row
    return row_of, problems


def _is_negative(content: str, negative: Sequence[str]) -> bool:
    """Whether a content is a negative control: by its name, or as controls are commonly called."""
    return content.lower() in {name.lower() for name in negative} or (
        tuple(negative) == NEGATIVE and control_type(content) == "negcon"
    )


def _contents(
    path: Path, plates: int, wells: list[str], negative: Sequence[str]
) -> tuple[dict[tuple[int, str], str], list[str]]:
    """Return the content of every plate and well, and all problems of ``plateconf.txt``."""
    conf = read_conf(path)
    rows, problems = _read_table(path, ("Plate", "Well", "Content"))
    for name, expected in (("Wells", str(len(wells))), ("Plates", str(plates))):
        if conf.get(name, [expected]) != [expected]:
            problems.append(
                f"{path}, {name}: expected {expected} as in imageconf.txt, got "
                f"{', '.join(conf[name])}"
            )
    row_of, wrong = _rules(path, rows, plates, wells)
    problems += wrong
    empty = np.argwhere(row_of < 0)
    if len(empty) and len(rows):
        problems.append(
            f"{path}: no row says what is in {len(empty)} wells, such as plate {empty[0][0] + 1}, "
            f"well {wells[empty[0][1]]}"
        )
    contents = list(rows["Content"].str.lower())
    found = {
        (plate + 1, wells[place]): contents[row_of[plate, place]]
        for plate, place in np.argwhere(row_of >= 0)
    }
    if len(rows) and not any(_is_negative(content, negative) for content in found.values()):
        others = sorted(
            {*found.values()} - {SAMPLE, EMPTY}, key=lambda name: (not like_a_control(name), name)
        )
        advice = "".join(
            f"; it has {', '.join(others)}: name the negative control, as in "
            f'PARAMS="negative={first}"'
            for first in others[:1]
        )
        problems.append(
            f"{path}: no negative control: expected a row with the Content {' or '.join(negative)}"
            f"{advice}"
        )
    return found, problems


def _flagged(
    path: Path, plates: int, replicates: int, wells: list[str]
) -> tuple[set[tuple[int, int, str]], list[str]]:
    """Return plate, replicate and well of every failure in ``screenlog.txt`` and its problems."""
    if not path.is_file():
        return set(), []
    rows, problems = _read_table(path, ("Plate", "Replicate", "Well", "Flag"))
    flagged, known = set(), set(wells)
    for at, row in zip(rows.index, rows.to_dict("records"), strict=True):
        name = well(row["Well"])
        place = (
            f"{path}, line {at + 1}: plate {row['Plate']!r}, replicate {row['Replicate']!r}, well "
            f"{row['Well']!r}"
        )
        plate, replicate = (
            int(text) if re.fullmatch("[0-9]{1,4}", text, re.ASCII) else 0
            for text in (number(row["Plate"]), number(row["Replicate"]))
        )
        if not (1 <= plate <= plates and 1 <= replicate <= replicates and name in known):
            problems.append(f"{place} is not a well of this screen")
        elif not is_missing(row["Flag"]):
            problems.append(f"{place}: expected Flag NA (the well failed), got {row['Flag']!r}")
        flagged.add((plate, replicate, name))
    return flagged, problems


def read_annotation(path: str | os.PathLike) -> pd.DataFrame:
    """Read which siRNA and gene are in which well, from ``annotation.txt`` or a CSV like it.

    Parameters
    ----------
    path : path
        Any table (`mcnn_core.readers.tables.read_cells`) with the columns Plate, Well, siRNAID,
        GeneID (the symbol), LocusID (the Entrez id) and Content (sample, control or empty), or
        their other spellings in `FIELDS`; controlStatus, where there is one, names the control.

    Returns
    -------
    DataFrame
        One row per plate (int) and well ("A03"), its index the line in the file less one:
        ``content`` ("sample", "empty" or the control in lower case), ``sirna``, ``gene``,
        ``entrez`` ("" where there is none, joined by ";" where there are several).

    Raises
    ------
    InputError
        With every missing column, unknown well, well that occurs twice, sample without siRNA or
        gene, and Entrez id that is none.
    """
    table, problems = _annotation(Path(path))
    if problems:
        raise InputError(f"{path}: {len(problems)} problems in the annotation", problems)
    return table


def _annotation(path: Path) -> tuple[pd.DataFrame, list[str]]:
    rows, problems = _read_table(path, ("Plate", "Well", "siRNAID", "GeneID", "LocusID", "Content"))
    if problems:
        columns = ["plate", "well", "content", "sirna", "gene", "entrez"]
        return pd.DataFrame(columns=columns), problems
    rows = rows.drop_duplicates().apply(
        lambda cells: cells.mask(cells.str.lower().isin(NOTHING) | cells.map(is_missing), "")
    )
    kind = rows["Content"].str.lower()
    status = (
        rows["controlStatus"].str.lower()
        if "controlStatus" in rows
        else kind.mask(kind == "control", rows["GeneID"].str.lower())
    )
    table = pd.DataFrame(
        {
            "plate": pd.to_numeric(rows["Plate"].map(number), errors="coerce"),
            "well": rows["Well"].map(well),
            "content": status.mask(status == "", EMPTY),
            "sirna": rows["siRNAID"],
            "gene": rows["GeneID"],
            "entrez": rows["LocusID"].map(_entrez),
        }
    )
    problems = [
        f"{path}, line {index + 1}: plate {rows['Plate'][index]!r}, well {rows['Well'][index]!r} "
        f"{what}"
        for what, mask in _annotation_faults(table).items()
        for index in table.index[mask]
    ]
    return (table, problems) if problems else (table.astype({"plate": "int64"}), [])


def _entrez(text: str) -> str:
    """Return the Entrez ids of a cell joined by ";": "7" for 7.0 or LOC7, "1;2" for "1 /// 2"."""
    parts = re.split(r"[\s;,/|]+", text)
    ids = [re.sub(r"^(GeneID|LOC|Entrez):?(?=\d)|\.0+$", "", one, flags=re.I) for one in parts]
    return ";".join(one for one in ids if one not in ("", "0"))


def _annotation_faults(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return which rows of an annotation are wrong, by what is said of them."""
    places = table["plate"].astype(str) + " " + table["well"]
    plate, sample = table["plate"], table["content"] == SAMPLE
    known = table["gene"] != ""
    return {
        "is not a plate and well: expected a number and a name such as A03": (
            ~(plate >= 1) | (plate % 1 != 0) | (table["well"] == "")
        ),
        "occurs more than once": places.duplicated(keep=False) & (table["well"] != ""),
        "is a sample without a siRNA: name it in siRNAID": sample & (table["sirna"] == ""),
        "is a sample without a gene: name it in GeneID": sample & ~known,
        "has a LocusID that is no Entrez id: expected a whole number, several, or NA": (
            sample & known & ~table["entrez"].str.fullmatch("([0-9]+(;[0-9]+)*)?")
        ),
    }


# ------------------------------------------------------------------------------ wells


def _patterns(folder: Path, conf: dict[str, list[str]]) -> tuple[str, str]:
    """Return the pattern of the image files, and that of the barcode.

    The latter are the folders of the former that name plate and replicate.
    """
    pattern = ", ".join(conf["SourceFilenamePattern"])
    first, _, rest = pattern.partition("/")
    # The sample of KiMorph has lost its first folder's name: conf says source/ where it is images/.
    if rest and "{" not in first and not (folder / first).is_dir() and (folder / "images").is_dir():
        pattern = f"images/{rest}"
    barcode = "/".join(
        part
        for part in pattern.split("/")
        if re.search("{(plate|replicate)}", part)
        and not re.search("{(row|col|spot|channel)}", part)
    )
    several = [
        part
        for part, name in (("{plate}", "PlateNames"), ("{replicate}", "ReplicateNames"))
        if len(conf[name]) > 1
    ]
    return pattern, barcode if barcode and all(
        part in barcode for part in several
    ) else "{plate}-{replicate}"


def _filled(pattern: str, names: dict[str, str]) -> str:
    """Return a pattern of `_patterns` with the names of one well, spot and channel left open."""
    return re.sub(r"\{(plate|replicate|row|col)\}", lambda found: names[found[1]], pattern)


def read_wells(
    folder: str | os.PathLike,
    annotation: str | os.PathLike | None = None,
    negative: Sequence[str] = NEGATIVE,
) -> pd.DataFrame:
    """Return every well of a screen in the imageHTS layout, the empty and the failed ones too.

    Parameters
    ----------
    folder : path
        Holds ``conf/imageconf.txt``, ``conf/plateconf.txt``, ``conf/annotation.txt`` and, if any
        well failed, ``conf/screenlog.txt``.
    annotation : path, optional
        As for `read_annotation`, in place of ``conf/annotation.txt``.
    negative : sequence of str
        Contents that are negative controls.

    Returns
    -------
    DataFrame
        One row per plate, replicate and well: ``barcode`` (of the physical plate), ``plate`` and
        ``replicate`` (from 1), ``well``, ``content``, ``failed`` (bool), ``sirna``, ``gene``,
        ``entrez``, and one column per channel with the path of its image below `folder`, in which
        ``{spot}`` stands where a well has several.

    Raises
    ------
    InputError
        With every problem of the conf files: a well that no plate has, a plate conf without
        negative control, a content that conf and annotation see differently.
    """
    home = Path(folder) / "conf"
    conf, wells = _image_conf(home / "imageconf.txt")
    plates, replicates = len(conf["PlateNames"]), len(conf["ReplicateNames"])
    contents, problems = _contents(home / "plateconf.txt", plates, wells, negative)
    flagged, wrong = _flagged(home / "screenlog.txt", plates, replicates, wells)
    source = home / "annotation.txt" if annotation is None else Path(annotation)
    genes, unread = _annotation(source)
    problems += [*wrong, *unread]
    if not unread:
        problems += _disagreements(source, genes, contents, plates, set(wells))
    if problems:
        raise InputError(
            f"{folder}: {len(problems)} problems in the conf files of this screen", problems
        )
    patterns = _patterns(Path(folder), conf)
    unknown = dict.fromkeys(("sirna", "gene", "entrez"), "")
    known = genes.set_index(["plate", "well"])[list(unknown)].to_dict("index")
    rows = []
    for (plate, plate_name), (replicate, replicate_name), row, column in product(
        enumerate(conf["PlateNames"], 1),
        enumerate(conf["ReplicateNames"], 1),
        conf["RowNames"],
        conf["ColNames"],
    ):
        name = well(row + column)
        names = {"plate": plate_name, "replicate": replicate_name, "row": row, "col": column}
        image, barcode = (_filled(pattern, names) for pattern in patterns)
        rows.append(
            {
                "barcode": barcode,
                "plate": plate,
                "replicate": replicate,
                "well": name,
                "content": contents[plate, name],
                "failed": (plate, replicate, name) in flagged,
            }
            | known.get((plate, name), unknown)
            | {channel: image.replace("{channel}", channel) for channel in conf["ChannelNames"]}
        )
    return pd.DataFrame(rows)


def _disagreements(
    path: Path,
    genes: pd.DataFrame,
    contents: dict[tuple[int, str], str],
    plates: int,
    wells: set[str],
) -> list[str]:
    """Say where the annotation has a well that the conf files lack, lacks one, or names another."""
    problems = [
        f"{path}, line {at + 1}: plate {plate}, well {name} is not a well of this screen"
        for at, plate, name in zip(genes.index, genes["plate"], genes["well"], strict=True)
        if plate <= plates and name not in wells
    ]
    annotated = dict(
        zip(
            zip(genes["plate"], genes["well"], strict=True),
            zip(genes["content"], genes.index, strict=True),
            strict=True,
        )
    )
    for place, content in contents.items():
        kind, at = annotated.get(place, ("", -1))
        if content == SAMPLE and at < 0:
            problems.append(
                f"{path}: plate {place[0]}, well {place[1]} is a sample in plateconf.txt and "
                "absent here"
            )
        elif at >= 0 and content != EMPTY and (content == SAMPLE) != (kind == SAMPLE):
            problems.append(
                f"{path}, line {at + 1}: plate {place[0]}, well {place[1]} is {content} in "
                f"plateconf.txt and {kind} here"
            )
    return problems


# ------------------------------------------------------------------------------ fields


def _files(
    folder: Path, wells: pd.DataFrame, channels: Sequence[str]
) -> tuple[list[str], list[Problem]]:
    """Return the image files that exist, and a problem per file that is absent or outside.

    Only files of a plate that has some count as absent.
    """
    inside = os.path.join(os.path.realpath(folder), "")
    exists = {
        channel: [os.path.isfile(folder / name) for name in wells[channel]] for channel in channels
    }
    fetched = set(wells["barcode"][pd.DataFrame(exists, index=wells.index).any(axis=1)])
    present, problems = [], []
    for channel in channels:
        for barcode, place, name, found in zip(
            wells["barcode"], wells["well"], wells[channel], exists[channel], strict=True
        ):
            path = str(folder / name)
            if not os.path.realpath(path).startswith(inside):
                what = f"{path} lies outside the screen's folder"
                problems.append(Problem(what, "file-outside", path))
            elif found:
                present.append(path)
            elif barcode in fetched:
                what = f"plate {barcode}, well {place}, channel {channel}: {path} does not exist"
                problems.append(Problem(what, "file-missing", path))
    return present, problems


def _sizes(paths: list[str]) -> tuple[tuple[int, int], dict[str, tuple[int, int]]]:
    """Return the most frequent (height, width) of files, and those that are larger.

    Damaged files are passed over; in those that are smaller, fields lie outside.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for path in paths:
        try:
            sizes[path] = image_shape(path)
        except InputError:
            continue
    common = pd.Series(list(sizes.values())).mode().iat[0] if sizes else image_shape(paths[0])
    larger = {
        path: size
        for path, size in sizes.items()
        if size != common and size[0] >= common[0] and size[1] >= common[1]
    }
    return common, larger


def _grid(
    paths: list[str], montage: list[str], field: tuple[int, int] | None
) -> tuple[list[str], list[Problem]]:
    """Return the ``Metadata_Tile`` of every field in a file, and files of which they are a part.

    There are none where a file is one field.
    """
    if not montage and field is None:
        return [], []
    (height, width), larger = _sizes(paths)
    path = paths[0]
    if not montage and field == KIMORPH_FIELD and (height, width) != KIMORPH_FILE:
        return [], []
    tall, wide = field or (height, width)
    if montage:
        columns, rows = map(int, montage)
        if height % rows or width % columns:
            raise InputError(
                f"{path}: {height} x {width} pixels cannot be cut into {rows} rows and {columns} "
                "columns of equal fields: correct Montage"
            )
        tall, wide = height // rows, width // columns
    rows, columns = height // tall, width // wide
    if not rows * columns:
        raise InputError(
            f"{path}: expected at least one field of {tall} x {wide} pixels, got {height} x {width}"
        )
    tiles = [
        f"{row * tall}:{(row + 1) * tall},{column * wide}:{(column + 1) * wide}"
        for row in range(rows)
        for column in range(columns)
    ]
    expected = f"expected {height} x {width} pixels as in most files, of {rows} x {columns} fields"
    return tiles, [
        Problem(f"{one}: {expected}, got {size[0]} x {size[1]}", "file-size-differs", one)
        for one, size in larger.items()
    ]


def _compounds(wells: pd.DataFrame) -> pd.Series:
    """Name each well's treatment by its gene, and by its siRNA where a symbol has several."""
    gene = wells["gene"].where(wells["gene"] != "", wells["content"].str.upper())
    several = wells["sirna"].groupby(gene).transform("nunique") > 1
    return gene.where(~several | (wells["sirna"] == ""), gene + " (" + wells["sirna"] + ")")


def read_imagehts(
    folder: str | os.PathLike,
    field: tuple[int, int] | None = None,
    annotation: str | os.PathLike | None = None,
    negative: Sequence[str] = NEGATIVE,
    simulated: bool = False,
) -> Screen:
    """Read a screen in the imageHTS layout, one row per field of a well not empty nor failed.

    Parameters
    ----------
    folder, annotation, negative
        As for `read_wells`.
    field : (int, int), optional
        Height and width in pixels of one field, for files that hold several; whole fields are cut
        out from the upper left corner and the rest of a file is left out. `KIMORPH_FIELD` holds for
        files of KiMorph's size; others in that layout are a field each. A ``Montage`` line of
        ``imageconf.txt`` (columns, rows) takes precedence. With neither a file is one field.
    simulated : bool
        Whether a simulator wrote this folder.

    Returns
    -------
    Screen
        ``Metadata_Plate`` is the barcode, ``Metadata_Compound`` the gene symbol (with the siRNA
        where several have one symbol), ``Metadata_control_type`` negcon, poscon or trt. Next to the
        usual columns: ``Metadata_Tile`` (where files are cut), ``Metadata_Gene``,
        ``Metadata_Entrez``, ``Metadata_siRNA``, ``Metadata_Content``, and ``Metadata_Position``
        ("1 A03": plate number and well, the same in every replicate), by which KiMorph's surrogate
        classes are formed. Plates without a single image are in the table;
        `mcnn_core.readers.incomplete.fetched` drops them.

    Raises
    ------
    InputError
        With every problem of the conf files, or every image that is absent.
    """
    screen, problems = examine_imagehts(folder, field, annotation, negative, simulated)
    absent = [problem for problem in problems if problem.severity == "error"]
    if absent:
        what = f"{folder}: {len(absent)} images of this screen are absent or of another size"
        raise InputError(what, absent)
    for problem in problems:
        print(f"{problem.severity}: {problem}")
    return screen


def examine_imagehts(
    folder: str | os.PathLike,
    field: tuple[int, int] | None = None,
    annotation: str | os.PathLike | None = None,
    negative: Sequence[str] = NEGATIVE,
    simulated: bool = False,
) -> tuple[Screen, list[Problem]]:
    """Return the screen as `read_imagehts` does, and a problem per image absent or outside.

    The wells of such images stay in the table. One note counts genes without one Entrez id.

    Raises
    ------
    InputError
        With every problem of the conf files; if no image is there; if a file cannot be cut into
        fields.
    """
    folder = Path(folder)
    wells = read_wells(folder, annotation, negative)
    conf = read_conf(folder / "conf" / "imageconf.txt")
    names = conf["ChannelNames"]
    channels = KIMORPH_CHANNELS if set(names) == set(KIMORPH_CHANNELS) else tuple(names)
    wells = wells[(wells["content"] != EMPTY) & ~wells["failed"]].reset_index(drop=True)
    spots = conf.get("SpotNames", ["1"])
    wells = _spots(wells, channels, spots)
    present, problems = _files(folder, wells, channels)
    if not present:
        absent: list[Problem] | list[str] = problems or [
            f"such as {folder / wells[channels[0]].iloc[0]}"
        ]
        raise InputError(f"{folder}: {len(absent)} images of this screen are absent", absent)
    table = _screen_table(wells, channels, negative)
    tiles, larger = _grid(present, conf.get("Montage", []), field)
    problems += larger
    if tiles:
        table = table.merge(pd.DataFrame({"Metadata_Tile": tiles}), how="cross")
        tile = np.arange(len(table)) % len(tiles)
        table["Metadata_Site"] = (table["Metadata_Site"] - 1) * len(tiles) + tile + 1
    problems += _without_id(folder, wells) + _dates(folder, wells)
    name = "simulated KiMorph" if simulated else "KiMorph"
    return Screen(name, table, channels, Path(os.path.realpath(folder)), simulated), problems


def _spots(wells: pd.DataFrame, channels: Sequence[str], spots: Sequence[str]) -> pd.DataFrame:
    """Return a row per well and spot, its ``site`` numbered from 1 in the order of the conf."""
    places = pd.DataFrame({"site": range(1, len(spots) + 1), "spot": spots})
    fields = wells.merge(places, how="cross")
    for channel in channels:
        fields[channel] = [
            path.replace("{spot}", spot)
            for path, spot in zip(fields[channel], fields["spot"], strict=True)
        ]
    return fields.drop(columns="spot")


def _without_id(folder: Path, wells: pd.DataFrame) -> list[Problem]:
    """Say in one note which genes no enrichment can find: they have no Entrez id, or several."""
    library = wells[wells["content"] == SAMPLE].drop_duplicates("gene")
    ids = library["entrez"].str.count(";") + (library["entrez"] != "")
    without = library["gene"][ids != 1]
    if without.empty:
        return []
    what = (
        f"genes without Entrez id: {(ids == 0).sum():,}, with several: {(ids > 1).sum():,} "
        f"({first_few([*without])}); their wells are read, and no enrichment counts them"
    )
    return [Problem(f"{folder}: {what}", "gene-without-id", str(folder), severity="note")]


def _dates(folder: Path, wells: pd.DataFrame) -> list[Problem]:
    """Warn of symbols that a spreadsheet has turned into dates, as MARCH1 into 1-Mar."""
    dates = sorted({gene for gene in wells["gene"] if DATE.fullmatch(gene)})
    if not dates:
        return []
    what = f"{len(dates):,} symbols look like dates that a spreadsheet has made of them: "
    text = f"{folder}: {what}{first_few(dates)}"
    return [Problem(text, "gene-like-date", str(folder), severity="warning")]


def _screen_table(
    wells: pd.DataFrame, channels: Sequence[str], negative: Sequence[str]
) -> pd.DataFrame:
    """Return the table of a screen, one row per file of a channel."""
    compound = _compounds(wells)
    return pd.DataFrame(
        {
            "Metadata_Plate": wells["barcode"],
            "Metadata_Well": wells["well"],
            "Metadata_Site": wells["site"],
            "Metadata_Compound": compound,
            "Metadata_Concentration": float("nan"),
            "Metadata_Treatment": [treatment_key(name, "") for name in compound],
            "Metadata_MoA": "",
            "Metadata_Replicate": wells["replicate"],
            "Metadata_Batch": "",
            "Metadata_control_type": [
                "trt"
                if content == SAMPLE
                else "negcon"
                if _is_negative(content, negative)
                else "poscon"
                for content in wells["content"]
            ],
            **{
                f"{part}Name_{channel}": wells[channel].map(split)
                for channel in channels
                for part, split in (("File", os.path.basename), ("Path", os.path.dirname))
            },
            "Metadata_Gene": wells["gene"],
            "Metadata_Entrez": wells["entrez"],
            "Metadata_siRNA": wells["sirna"],
            "Metadata_Content": wells["content"],
            "Metadata_Position": wells["plate"].astype(str) + " " + wells["well"],
        }
    )
