"""How programs and people spell what a table says: the columns, and what stands in their cells."""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from mcnn_core.columns import folder_and_name, is_dmso
from mcnn_core.errors import Problem

#: Spellings of every known column, in the order in which they are preferred. Compared by `key`: in
#: any case, with or without ``Image_`` and ``Metadata_`` before it, whatever stands between words.
SPELLINGS = {
    column: text.split(", ")
    for column, text in {
        "Metadata_Plate": (
            "Barcode, Plate_Barcode, Assay_Plate_Barcode, Assay_Plate, AssayPlate_Barcode, "
            "PlateID, Plate_Name, PlateName, Plate_Number, Plate_Code, "
            "Destination_Plate_Barcode, Destination_Plate_Name, Destination_Plate"
        ),
        "Metadata_Well": (
            "Well_Position, Well_ID, Well_Name, Well_Label, Well_Pos, Well_Location, "
            "Well_Number, Well_Coordinate, Plate_Well, Destination_Well, Dest_Well"
        ),
        "Metadata_Site": (
            "Field, FieldID, Field_Index, Field_Number, Field_of_View, FOV, Fld, SiteID, "
            "Site_Number, Image_Site, Imaging_Site, Position, Spot, Tile_Number"
        ),
        "Metadata_Compound": (
            "pert_iname, pert_name, Compound_Name, Cpd_Name, Cpd, Drug_Name, Drug, "
            "Treatment_Name, Perturbation_Name, Perturbation, Perturbagen, Molecule_Name, "
            "Molecule, Chemical_Name, Chemical, Substance_Name, Substance, Reagent_Name, "
            "Compound_ID, CompoundNo, Cpd_ID, Drug_ID, broad_sample, broad_id, pert_id, "
            "JCP2022, Sample_ID, InChIKey, siRNA, siRNA_ID, siRNA_Identifier, sgRNA, "
            "Gene_Symbol, Symbol, Gene_Name, Gene, GeneID, Treatment"
        ),
        "Metadata_Concentration": (
            "Conc, Dose, pert_dose, pert_idose, Compound_Concentration, Compound_Conc, "
            "Compound_Dose, Drug_Concentration, Drug_Conc, Drug_Dose, Final_Concentration, "
            "Final_Conc, Final_Dose, Treatment_Concentration, Treatment_Dose, "
            "Concentration_Value, Dose_Value, Dosage, mmoles_per_liter, mmoles_per_liter2"
        ),
        "Metadata_MoA": (
            "Mechanism_of_Action, Mode_of_Action, Mechanism, MoAs, MoA_Name, pert_moa, "
            "Compound_MoA, Drug_MoA, Clinical_MoA, MoA_Class"
        ),
        "Metadata_Replicate": (
            "Replicate_Number, Replicate_ID, Rep, Repl, Rep_Number, Plate_Replicate, "
            "Treatment_Replicate, Biological_Replicate"
        ),
        "Metadata_Batch": (
            "Batch_ID, Batch_Name, Batch_Number, Plate_Batch, Imaging_Batch, Experiment_Batch, "
            "Screening_Batch, Run, RunID, Run_Number, Week, Experiment, Experiment_ID, "
            "Experiment_Name"
        ),
        "Metadata_control_type": (
            "Control, ControlStatus, pert_type, Well_Type, Well_Role, WellAnno, Sample_Type, "
            "Sample_Role, Compound_Type, Treatment_Type, Role, Content"
        ),
    }.items()
}


#: A well's row and column, where no column names the well.
ROW, COLUMN = (
    text.split(", ")
    for text in (
        "Row, Well_Row, Plate_Row, RowID, Row_Index, Row_Name, Row_Number",
        "Column, Col, Well_Column, Well_Col, Plate_Column, Plate_Col, ColumnID, ColID, "
        "Column_Index, Col_Index, Column_Name, Column_Number",
    )
)


#: A row of a plate, where it stands before what is drawn in it.
PLATE_ROW = re.compile("[A-P]|A[A-F]", re.IGNORECASE)


#: Lines of a table among which the header is looked for.
HEAD = 20


#: The unit of the doses, where it stands in a column of its own.
UNIT = [
    f"{name}_{unit}"
    for name in ("Concentration", *SPELLINGS["Metadata_Concentration"])
    for unit in ("Unit", "Units")
]


#: The folder of the images, where columns of images name none, as `key` returns it.
_FOLDERS = (
    "pathname path folder foldername folderpath directory dirname imagepath imagefolder filepath "
    "filefolder imagedirectory"
)
FOLDERS = frozenset(_FOLDERS.split())


#: What programs write where something is missing, compared in any case.
_MISSING = (
    "na, n/a, n.a., n.a, #n/a, #na, #nv, <na>, nan, -nan, none, null, nil, nat, \\n, ., .., -, --, "
    "---, \u2013, \u2014, ?, #null!, #num!, #value!, #ref!, #div/0!, #name?, 1.#qnan, -1.#ind, "
    "1.#ind, na_character_, na_real_, (empty), (blank), (null), [null], (none), <none>, <null>, "
    "undefined, missing, not available, not applicable, not known, not_available, not_applicable, "
    "n.d., n.d, not determined, #n/a n/a, #spill!, #calc!"
)
MISSING = frozenset(_MISSING.split(", "))


#: What also says that a mechanism is missing.
_UNKNOWN = (
    "unknown, unannotated, not annotated, unknown moa, unclear, tbd, nd, undetermined, unassigned, "
    "unspecified, not specified, uncharacterized, uncharacterised, no moa, no annotation"
)
UNKNOWN = frozenset(_UNKNOWN.split(", "))


#: Micromolar per unit, by its spelling as `key` returns it.
UNITS = {
    spelling: factor
    for short, word, factor in (
        ("f", "femto", 1e-9),
        ("p", "pico", 1e-6),
        ("n", "nano", 1e-3),
        ("u", "micro", 1.0),
        ("m", "milli", 1e3),
        ("", "", 1e6),
    )
    for spelling in (
        f"{short}m",
        *(f"{short}mol{liter}" for liter in ("l", "perl", "l1", "liter", "perliter", "perlitre")),
        *(f"{short}moles{liter}" for liter in ("perl", "perliter", "perlitre")),
        f"{word}molar",
        *(f"{word}mol{liter}" for liter in ("perl", "perliter", "esperliter")),
    )
}


#: What a column of doses is called that is not among the spellings.
LIKE_A_DOSE = re.compile(
    r"conc(?!lu)|dose|dosage|titrat|dilut|molar|log(10)?\W?M\b|%\s*\(?v/v|^(%|percent)$|"
    r"(^|[\s_(\[-])[pnum\u00b5\u03bc]M[)\]]?$|[pnum\u00b5\u03bc]g[\W_]?(per_)?m?l|"
    r"transfer\w*\W?vol|vol(ume)?\W*[nu\u00b5\u03bc]l",
    re.ASCII,
)


#: A compound with its dose behind it.
WITH_DOSE = re.compile(
    r"^\s*(.+?)[\s_@|,;(\[-]+([0-9.,]+(?:[eE]-?\d+)?\s*[fpnum\u00b5\u03bc]?M)\s*[)\]]?\s*$"
)


#: Units of doses that are none of micromolar, as `key` returns them; of a percent nothing is left.
_OTHER_UNIT = re.compile("|[pnum]?g(per)?[mun]?l|[pnum]?gkg|x|vv|percent|percentvv")


#: What is said of a cell that is no dose.
A_DOSE = "is not a number of micromolar, 0 or more"


#: What control types are called, as `key` returns it.
CONTROL_TYPES = {
    kind: text.split()
    for kind, text in {
        "negcon": (
            "negcon nc negativecontrol negative neg negctrl negctl negcontrol ctlneg "
            "controlnegative vehicle vehiclecontrol solvent solventcontrol dmso dmsocontrol "
            "ctlvehicle ctluntrt untreated untreatedcontrol mock ctlvector neutralcontrol"
        ),
        "poscon": (
            "poscon pc positivecontrol positive pos posctrl posctl poscontrol ctlpos "
            "controlpositive inhibitorcontrol stimulatorcontrol"
        ),
        "trt": (
            "trt treatment treated trtcp trtsh trtoe trtxpr sample test testcompound compound "
            "experimental library"
        ),
    }.items()
}


#: A control type that leaves open which control; the compound says it.
A_CONTROL = ("control", "ctrl", "ctl", "con", "true", "yes")


#: Compounds that are hardly any, as `key` returns them.
_LIKE_A_CONTROL = (
    "vehicle vehiclecontrol solvent solventcontrol untreated notreatment nocompound nodrug mock "
    "control controls ctrl negativecontrol negcontrol negctrl negcon neg nc water h2o pbs medium "
    "media mediaonly cellsonly empty emptywell blank nontargeting scrambled scramble "
    "nontargetingcontrol scramblecontrol scrambledcontrol sint sineg sicontrol sictrl ntc allstars"
)
LIKE_A_CONTROL = frozenset(_LIKE_A_CONTROL.split())


# ------------------------------------------------------------------------------ cells


def key(text: str) -> str:
    """Return a name without prefix, case and what separates its words, for comparison."""
    plain = unicodedata.normalize("NFKC", text).replace("\u03bc", "u").strip()
    plain = re.sub(r"^(image_)?(metadata_)?", "", plain, flags=re.IGNORECASE)
    return re.sub(r"[\W_]+", "", plain).casefold()


def is_missing(text: str) -> bool:
    """Whether a cell says that nothing is known: "NA", "n/a", "NULL", "#N/A" and the like."""
    return text.strip().casefold() in MISSING


def well(text: str) -> str:
    """Return "B02" for B2, b02, "B - 02", "B:2", R02C02 or "Row 2 Column 2"; "" if it is no well.

    Up to AF48, of 1,536 wells.
    """
    between = r"[\s_\-\u2010-\u2013:;,./|]*"
    plain = re.sub(r"^[(\[]|[)\]]$|^well(?![a-z])" + between, "", text.strip(), flags=re.IGNORECASE)
    found = re.fullmatch(
        rf"(?:row{between})?([A-Z]|A[A-F]){between}"
        rf"(?:col(?:umn)?{between})?0*([1-9]|[1-3]\d|4[0-8])",
        plain.upper() if "ow" not in plain.lower() else plain,
        re.ASCII | re.IGNORECASE,
    )
    if found:
        return f"{found[1].upper()}{int(found[2]):02d}"
    found = re.fullmatch(
        rf"r(?:ow)?{between}0*(\d{{1,2}}){between}c(?:ol(?:umn)?)?{between}0*(\d{{1,2}})",
        plain,
        re.ASCII | re.IGNORECASE,
    )
    if not found or not (1 <= int(found[1]) <= 32 and 1 <= int(found[2]) <= 48):
        return ""
    row = int(found[1]) - 1
    return f"{'A' * (row > 25)}{chr(65 + row % 26)}{int(found[2]):02d}"


def number(text: str) -> str:
    """Return "1" for 01, 1.0, F001, s1 or "Site 1"; what holds no such number, as it is."""
    found = re.fullmatch(
        r"\s*(?:[A-Za-z][A-Za-z _.#:-]*|#\s*)?0*(\d{1,15})(?:\.0*)?\s*", text, re.ASCII
    )
    return found[1] if found else text.strip()


def micromolar(text: str) -> str:
    """Return a dose in micromolar: "0.3" for 0.3, "300 nM" or "0,3 µM"; what is none, as it is.

    A comma is the decimal point unless it may as well separate thousands ("1,000"): that is none.
    """
    plain = unicodedata.normalize("NFKC", text).strip()
    found = re.fullmatch(r"([0-9.,]+(?:[eE][+-]?\d{1,3})?)\s*(\D.*)?", plain, re.ASCII)
    if not found:
        return text
    digits, unit = found[1], key(found[2] or "um")
    if re.fullmatch(r"0,\d+|\d+,(\d{1,2}|\d{4,})([eE].*)?|\d{4,},\d+|0,\d+[eE].*", digits):
        digits = digits.replace(",", ".")
    elif re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+\.\d*", digits):
        digits = digits.replace(",", "")
    if unit not in UNITS or not re.fullmatch(r"(\d+\.?\d*|\.\d+)([eE].*)?", digits):
        return text
    factor = UNITS[unit]
    return digits if factor == 1 else f"{float(digits) * factor:.6g}"


def is_dose(text: pd.Series) -> pd.Series:
    """Whether each text is empty or a finite number, 0 or more."""
    number = pd.to_numeric(text.str.strip(), errors="coerce")
    return (text.str.strip() == "") | ((number >= 0) & (number < math.inf))


def control_type(text: str) -> str:
    """Return negcon, poscon or trt for what means it in any case ("Negative control", poscon_cp).

    What means none, as it is.
    """
    name = key(text)
    for kind, spellings in CONTROL_TYPES.items():
        if name in spellings or re.match(rf"{kind}[_\s-]", text.strip().casefold()):
            return kind
    return text.strip()


def is_control(text: str) -> bool:
    """Whether a control type says "control" and leaves open which."""
    return key(text) in A_CONTROL


def vehicle(compound: str) -> str:
    """Return "DMSO" for what is DMSO and its share ("DMSO 0.1 %", "0.1% dmso"); else as it is."""
    mark = r"[\s_]*(%|percent|pct)?[\s_]*(\(?v/v\)?|vol)?[\s)]*"
    share = r"[\s_(@-]*(\d+([.,]\d+)?)?" + mark
    name = r"(dmso|dimethyl[\s-]?sulf?ph?oxide|dimethyl[\s-]?sulfoxide)"
    word = r"[\s_(-]*(control|ctrl|vehicle|only|solvent|negcon)?[\s)]*"
    pattern = rf"({word}{share})?{name}{word}({share})?{word}"
    text = compound.strip()
    return "DMSO" if is_dmso(text) or re.fullmatch(pattern, text, re.IGNORECASE) else text


def like_a_control(compound: str) -> bool:
    """Whether a compound that is not DMSO looks like a control all the same."""
    return not is_dmso(compound) and (
        key(compound) in LIKE_A_CONTROL or bool(re.search(r"(?<![a-z])dmso", compound.lower()))
    )


# ---------------------------------------------------------------------------- columns


def note(
    path: Path, text: str, code: str, column: str = "", severity: str = "note", line: int = 1
) -> Problem:
    """Return a note, or what else `severity` says, on a table."""
    return Problem(f"{path}: {text}", code, str(path), line, column, severity=severity)


def canonical(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the rows of a table under the names this project knows, and what was taken as what.

    Parameters
    ----------
    path : Path
        For messages.
    rows : DataFrame
        As `mcnn_core.readers.tables.read_cells` returns it, each column once.

    Returns
    -------
    rows : DataFrame
        Cells that say they are missing are "". Known columns have the names of `SPELLINGS`, doses
        their unit behind them where a column says it; columns of image paths are a ``FileName_``
        and a ``PathName_`` each.
    problems : list of Problem
        Notes (``values-missing``, ``column-taken``, ``column-left``); a warning for each column
        that looks like one of doses or of control types and is not taken (``dose-not-taken``,
        ``control-type-not-taken``); two columns of one name that differ (``column-twice``).
    """
    rows, problems = _without_missing(path, rows)
    for step in (_channels, _both, _known, _with_doses, _wells):
        rows, more = step(path, rows)
        problems += more
    return rows, problems + _doses_left(path, rows) + _control_types_left(path, rows)


#: The known column of each spelling, and the spellings of doses, as `key` returns them.
_COLUMN_OF = {
    key(name): column
    for column, spellings in reversed(SPELLINGS.items())
    for name in (column, *spellings)
}
_DOSES = [key(name) for name in ("Concentration", *SPELLINGS["Metadata_Concentration"])]
_PLACES = {key(name) for name in (*ROW, *COLUMN)}


def known_column(name: str) -> str:
    """Return the known column that a name is a spelling of, "" if it is none."""
    plain = key(name)
    return _COLUMN_OF.get(plain) or _COLUMN_OF.get(without_unit(plain), "")


def most_known(rows: Sequence[Sequence[str]]) -> int:
    """Return how many cells of a header, one of the first rows, are names of known columns."""

    def known(name: str) -> bool:
        return bool(known_column(name)) or _names_images(name) or key(name) in _PLACES

    return max((sum(map(known, filter(None, cells))) for cells in rows[:HEAD]), default=0)


def _names_images(column: str) -> bool:
    return column.startswith(("FileName_", "PathName_", "URL_", "Frame_", "Illum"))


def _without_missing(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Empty every cell that says it is missing, but for names of files; count them in one note."""
    found: dict[str, int] = {}
    spelt: set[str] = set()
    for column in [name for name in rows if not _names_images(name)]:
        missing = MISSING | UNKNOWN if _meaning(column, "Metadata_MoA") else MISSING
        kinds = {text for text in rows[column].unique() if text.strip().casefold() in missing}
        if kinds:
            gone = rows[column].isin(kinds)
            rows = rows.assign(**{column: rows[column].mask(gone, "")})
            found[column] = int(gone.sum())
            spelt |= {text.strip() for text in kinds}
    if not found:
        return rows, []
    words = ", ".join(sorted(spelt)[:5]) + " …" * (len(spelt) > 5)
    places = ", ".join(f"{column} {n:,}" for column, n in found.items())
    text = f"{sum(found.values()):,} cells say {words} and count as empty: {places}"
    return rows, [note(path, text, "values-missing", next(iter(found)))]


def _meaning(name: str, column: str) -> bool:
    """Whether `name` is a spelling of the known column `column`."""
    return key(name) in map(key, (column, *SPELLINGS[column]))


def _channels(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Split columns of image paths, one per channel as in DeepProfiler's index, into two each."""
    if any(_names_images(name) for name in rows):
        return rows, []
    paths = [
        name
        for name in rows
        if (filled := rows[name][rows[name] != ""]).size
        and filled.str.fullmatch(r".*\.(tiff?|png|jpe?g|bmp|jp2|flex|stk)\s*", case=False).all()
    ]
    home = next((name for name in rows if key(name) in FOLDERS and name not in paths), "")
    for name in paths:
        folder, file = folder_and_name(rows[name])
        if home and (folder == "").all():
            folder = rows[home]
        rows = rows.assign(**{f"FileName_{name}": file, f"PathName_{name}": folder})
    text = f"{', '.join(paths)} taken as channels, whose cells name images"
    text += f" in the folders of {home}" * bool(home)
    taken = [note(path, text, "column-taken", ", ".join(paths))] if paths else []
    return rows.drop(columns=paths), taken


def _both(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Split a column of compound and dose ("taxol_0.3") into two, where there are none yet."""
    for name in [name for name in rows if key(name) == "compoundconcentration"]:
        cells = rows[name].str.strip()
        doses = cells[cells != ""].map(micromolar).map(_is_number)
        if doses.mean() > 0.5 or doses.empty:
            continue
        parts = cells.str.extract(r"^(.*?)(?:[_@|\s]+([0-9.,]+(?:e-?\d+)?(?:\s*[^\W\d]?M)?))?$")
        made = {"Metadata_Compound": parts[0], "Metadata_Concentration": parts[1]}
        made = {column: part.fillna("") for column, part in made.items() if column not in rows}
        if made:
            text = f"{name} taken as {' and '.join(made)}"
            rows = rows.assign(**made).rename(columns={name: f"{name} as written"})
            return rows, [note(path, text, "column-taken", name)]
    return rows, []


def _with_doses(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Take doses out of the names of compounds ("taxol 0.3 uM") where most of them have one."""
    if "Metadata_Concentration" in rows or "Metadata_Compound" not in rows:
        return rows, []
    cells = rows["Metadata_Compound"]
    parts = cells.str.extract(WITH_DOSE)
    treated = cells.map(vehicle).ne("DMSO") & (cells.str.strip() != "")
    found = parts[1].notna() & treated
    if not found.any() or found.sum() * 2 < treated.sum():
        return rows, []
    made = {
        "Metadata_Compound": parts[0].where(found, cells),
        "Metadata_Concentration": parts[1].where(found, ""),
        "Metadata_Compound as written": cells,
    }
    text = f"doses are taken from {cells[found].nunique():,} names of compounds, as in "
    text += f"{cells[found].iloc[0]!r}"
    return rows.assign(**made), [note(path, text, "column-taken", "Metadata_Compound")]


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text))


def _known(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Give each known column its name; another that means the same is only copied."""
    problems: list[Problem] = []
    units = _first(rows, UNIT) or _plain_units(rows)
    for column in SPELLINGS:
        names = _spelt(rows, column)
        if not names:
            continue
        name, *others = names
        twin = next((other for other in others if key(other) == key(name)), "")
        if twin and name != column and not rows[twin].equals(rows[name]):
            text = f"columns {name} and {twin} both mean {column} and differ: keep one"
            problems.append(note(path, text, "column-twice", name, "error"))
        left = f"; {', '.join(others)} only copied" if others else ""
        unit = ""
        if column == "Metadata_Concentration":
            rows, unit = _with_unit(rows, name, units)
        if name != column:
            text = f"{name} taken as {column}{unit}{left}"
            problems.append(note(path, text, "column-taken", name))
            rows = rows.drop(columns=column, errors="ignore").rename(columns={name: column})
        elif others:
            text = f"{', '.join(others)} only copied: the table has {column}"
            problems.append(note(path, text, "column-left", others[0]))
    return rows, problems


def _plain_units(rows: pd.DataFrame) -> str:
    """Return the column "Unit" whose cells are units of doses, "" if there is none."""
    for name in [name for name in rows if key(name) in ("unit", "units")]:
        kinds = [key(text) for text in rows[name].unique() if text.strip()]
        if kinds and all(kind in UNITS or _OTHER_UNIT.fullmatch(kind) for kind in kinds):
            return str(name)
    return ""


def _spelt(rows: pd.DataFrame, column: str) -> list[str]:
    """Return the columns that are spellings of `column`, the one to be taken first.

    One that is empty comes last, and one whose cells do not fit the meaning is none.
    """
    order = [key(name) for name in (column, *SPELLINGS[column])]
    places = {}
    for name in rows:
        plain = key(name)
        if column == "Metadata_Concentration":
            plain = "" if "%" in name else without_unit(plain)
        if plain in order and (plain == order[0] or _fits(rows[name], column)):
            places[name] = ((rows[name] == "").all(), name != column, order.index(plain))
    names = sorted(places, key=lambda name: places[name])
    if column in places and places[names[0]][0]:
        return [column]
    return [name for name in names if not places[name][0] or name == names[0]]


def _fits(cells: pd.Series, column: str) -> bool:
    """Whether cells can be what their column's name suggests."""
    filled = cells[cells != ""].drop_duplicates()
    tests: dict[str, Callable[[str], bool]] = {
        "Metadata_Replicate": lambda text: number(text).isdigit(),
        "Metadata_Site": lambda text: number(text).isdigit(),
        "Metadata_Well": lambda text: well(text) != "",
        "Metadata_control_type": lambda text: (
            control_type(text) in CONTROL_TYPES or is_control(text) or key(text) in ("false", "no")
        ),
    }
    if column == "Metadata_Concentration":
        return bool(filled.map(micromolar).map(_is_number).any())
    return column not in tests or bool(filled.map(tests[column]).all())


def without_unit(plain: str) -> str:
    """Return a key without the unit behind it: "dose" for "dosenm"."""
    if plain in _DOSES:
        return plain
    for start in _DOSES:
        if plain.startswith(start) and plain[len(start) :].removeprefix("in") in UNITS:
            return start
    return plain


def _with_unit(rows: pd.DataFrame, name: str, units: str) -> tuple[pd.DataFrame, str]:
    """Return the rows with the unit behind each plain dose, where the column's name says one.

    `units` is the column that says them row by row, if there is one. Return also the unit in words.
    """
    plain, cells = key(name), rows[name].str.strip()
    unit = plain[len(without_unit(plain)) :].removeprefix("in")
    bare = cells.str.fullmatch(r"[0-9.,]+([eE][+-]?\d+)?")
    if unit and UNITS[unit] != 1:
        unit = unit if unit[-1] != "m" else f"{unit[:-1]}M"
        return rows.assign(**{name: cells.mask(bare, cells + f" {unit}")}), f", in {unit}"
    if units and not unit:
        written = cells.mask(bare & (rows[units] != ""), cells + " " + rows[units])
        return rows.assign(**{name: written}), f", with the units of {units}"
    return rows, ", in micromolar"


def _first(rows: pd.DataFrame, spellings: list[str]) -> str:
    """Return the first column of these spellings, "" if there is none."""
    names = {key(name): name for name in reversed(list(rows))}
    return next((names[plain] for plain in map(key, spellings) if plain in names), "")


def _wells(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Make the well of row and column where no column names it; rows may be letters."""
    names = [_first(rows, ROW), _first(rows, COLUMN)]
    if "Metadata_Well" in rows or "" in names:
        return rows, []
    row, column = (rows[name].str.strip().str.replace(r"\.0*$", "", regex=True) for name in names)
    text = f"Metadata_Well made of {' and '.join(names)}"
    parts = [part.where(part.str.fullmatch("[0-9]+")) for part in (row, column)]
    if any((pd.to_numeric(part) == 0).any() for part in parts):
        text += ", counted from 0"
        row, column = (
            (pd.to_numeric(part) + 1).astype("Int64").astype(str).where(part.notna(), plain)
            for part, plain in zip(parts, (row, column), strict=True)
        )
    made = ("R" + row + "C" + column).where(row.str.fullmatch("[0-9]+"), row + column)
    return rows.assign(Metadata_Well=made), [note(path, text, "column-taken", names[0])]


def _doses_left(path: Path, rows: pd.DataFrame) -> list[Problem]:
    """Name every column that looks like a dose and is not taken, and how many doses it pools."""
    problems = []
    treatment = [name for name in ("Metadata_Compound", "Metadata_Concentration") if name in rows]
    for name in rows:
        if name in SPELLINGS or _names_images(name) or name.endswith(" as written"):
            continue
        if not LIKE_A_DOSE.search(name) and not LIKE_A_DOSE.search(name.casefold()):
            continue
        if key(name) in map(key, UNIT):
            continue
        different = rows.loc[rows[name] != "", [*treatment, name]].drop_duplicates()
        per = different.groupby(treatment).size() if treatment else pd.Series([len(different)])
        if pooled := int(per[per > 1].sum()):
            kind = "compound" if treatment else "column"
            text = (
                f"{name} looks like a dose and is not taken: {pooled:,} doses of "
                f"{int((per > 1).sum()):,} {kind}{'s' * int((per > 1).sum() > 1)} are pooled; give "
                "micromolar in Metadata_Concentration"
            )
            problems.append(note(path, text, "dose-not-taken", name, "warning"))
    return problems


def _control_types_left(path: Path, rows: pd.DataFrame) -> list[Problem]:
    """Name every column of control types that is not taken, since some of its cells are none."""
    problems = []
    for name in [name for name in rows if _meaning(name, "Metadata_control_type")]:
        kinds = [text for text in rows[name].unique() if text.strip()]
        known = [control_type(text) in CONTROL_TYPES for text in kinds]
        controls = {control_type(text) for text in kinds} & {"negcon", "poscon"}
        if "Metadata_control_type" in rows or not controls or sum(known) * 2 < len(kinds):
            continue
        others = [text for text, is_known in zip(kinds, known, strict=True) if not is_known]
        text = (
            f"{name} looks like control types and is not taken: {', '.join(map(repr, others[:5]))} "
            "is not one of negcon, poscon, trt"
        )
        problems.append(note(path, text, "control-type-not-taken", name, "warning"))
    return problems


# ------------------------------------------------------------------- what was read as what


def read_as(path: Path, column: str, written: pd.Series, read: pd.Series) -> list[Problem]:
    """Return one note that cells were read as something else than they say, with an example.

    Case and zeros before a number count for nothing.
    """

    def plain(cells: pd.Series) -> pd.Series:
        pattern = r"(?<![\d.])0+(?=\d)|\.0*$"
        return cells.map({x: re.sub(pattern, "", x.strip().lower()) for x in cells.unique()})

    changed = (plain(written) != plain(read)) & (read != "")
    if not changed.any():
        return []
    index = changed.index[changed][0]
    kinds = written[changed].nunique() - 1
    more = f", and {kinds:,} more spellings" if kinds else ""
    text = f"{column}: {written[index]!r} read as {read[index]!r}{more}, in {changed.sum():,} rows"
    return [note(path, text, "values-read", column)]
