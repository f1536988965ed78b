"""Focal planes of a field that are rows of a table, and time points, which are not sites."""

import re
from pathlib import Path

import pandas as pd

from mcnn_core.errors import Problem
from mcnn_core.readers.reading import Reading

#: What columns of focal planes, and of time points, are called.
PLANE = re.compile(
    r"(Metadata_)?(Z|(focal|z)?[_ ]?(plane|step|slice|stack|section|level|position|index)([_ ]?"
    r"(id|number|index))?)",
    re.IGNORECASE,
)
_HOURS = r"h|hrs?|hours?|m|min|minutes?|s|sec|seconds?|d|days?"
TIME = re.compile(
    r"(Metadata_)?(T|(elapsed[_ ]?)?time[_ ]?(point|step|index)?[_ ]?(id|number|index|"
    rf"{_HOURS})?|hours?|hrs?|days?|minutes?|frame|cycle|round)",
    re.IGNORECASE,
)


def one_row_per_field(
    path: Path, rows: pd.DataFrame, field: pd.Series, reading: Reading
) -> tuple[pd.DataFrame, pd.Series, list[Problem]]:
    """Keep one row of each field, or with ``planes=max`` say which rows are one.

    Parameters
    ----------
    path : Path
        For messages.
    rows : DataFrame
        Text cells.
    field : Series of str
        Name of each row's field, "" where it has none.
    reading : Reading

    Returns
    -------
    rows : DataFrame
    first : Series of int
        The index of the row that stands for the field of each.
    problems : list of Problem
        Errors if rows are time points or planes and `reading` does not choose.
    """
    rows, problems = _one_time(path, rows, field, reading)
    field, own = field[rows.index], pd.Series(rows.index, rows.index)
    shared = (field != "") & field.duplicated(keep=False)
    for column in [name for name in rows if PLANE.fullmatch(name)]:
        if shared.any() and (values := _differ(rows.loc[shared, column], field[shared])):
            rows, own, more = _planes(path, rows, field, column, values, reading)
            return rows, own, problems + more
    return rows, own, problems


def _one_time(
    path: Path, rows: pd.DataFrame, field: pd.Series, reading: Reading
) -> tuple[pd.DataFrame, list[Problem]]:
    """Keep the rows of one time point of each field; without a choice the first, and an error."""
    shared = (field != "") & field.duplicated(keep=False)
    for column in [name for name in rows if TIME.fullmatch(name)]:
        times = rows[column].str.strip()
        if not shared.any() or times[shared].groupby(field[shared]).nunique().max() < 2:
            continue
        values = sorted(times[shared].unique(), key=_order)
        said = f"rows differ in {column} ({', '.join(values[:5])}{' …' * (len(values) > 5)}): "
        text = f"{said}they are time points of one field, and time={reading.time} is read"
        kept = times.map(_same_time) == _same_time(reading.time)
        if kept.any():
            problems = [_problem(path, text, "time-taken", column, severity="note")]
            lacking = field[~field.isin(field[kept]) & (field != "")].drop_duplicates()
            none = f"the field has no time point {reading.time}"
            problems += [
                _problem(path, none, "time-points", column, line + 1) for line in lacking.index
            ]
            return rows[kept], problems
        text = f"{said}time points of a field are no sites: choose one with PARAMS="
        text += f'"time={values[0]}"'
        text += f", got time={reading.time}" * bool(reading.time)
        return rows[times == values[0]], [_problem(path, text, "time-points", column)]
    return rows, []


def _same_time(text: str) -> float | str:
    """Return a time point for comparison: as a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _problem(
    path: Path, text: str, code: str, column: str, line: int = 1, severity: str = "error"
) -> Problem:
    where = f"{path}, line {line}"
    return Problem(f"{where}: {text}", code, str(path), line, column, severity=severity)


def _order(value: str) -> tuple[float, str]:
    found = re.search(r"-?\d+(\.\d+)?", value)
    return float(found[0]) if found else 0.0, value


def _differ(values: pd.Series, field: pd.Series) -> list[str]:
    """Return the values in their order if no two rows of one field have the same, else none."""
    twice = pd.concat([field, values], axis=1).duplicated().any()
    return [] if twice else sorted(values.unique(), key=_order)


def _planes(
    path: Path,
    rows: pd.DataFrame,
    field: pd.Series,
    column: str,
    values: list[str],
    reading: Reading,
) -> tuple[pd.DataFrame, pd.Series, list[Problem]]:
    """Keep one plane of each field, or all with the row that stands for them."""
    differ = f"rows differ in {column} ({', '.join(values[:5])}{' …' * (len(values) > 5)})"
    rank = rows[column].map({value: place for place, value in enumerate(values)})
    field = field.where(field != "", rows.index.astype(str))
    order = pd.DataFrame({"field": field, "rank": rank}).sort_values(["rank"], kind="stable")
    groups = order.groupby("field", sort=False)
    first = pd.Series(rows.index, rows.index).groupby(field).transform("min")
    if reading.planes == "max":
        text = f"{differ}: planes of one field, of which the brightest value of each pixel counts"
        note = _problem(path, text, "planes-taken", column, severity="note")
        return rows.loc[order.index], first[order.index], [note]
    own = pd.Series(rows.index, rows.index)
    if not reading.planes:
        text = (
            f'{differ}: they are planes of one field: choose with PARAMS="planes=max", '
            f'"planes=middle" or "planes={values[len(values) // 2]}"'
        )
        kept = rows[own == first]
        return kept, own[kept.index], [_problem(path, text, "planes-open", column)]
    if reading.planes == "middle":
        place, size = groups.cumcount(), order["field"].map(groups.size())
        chosen = order.index[place == (size - 1) // 2]
    else:
        number = float(reading.planes)
        chosen = order.index[rows.loc[order.index, column].map(lambda v: _order(v)[0]) == number]
    kept = rows.loc[sorted(chosen)]
    text = f"{differ}: they are planes of one field, and planes={reading.planes} is read"
    problems = [_problem(path, text, "planes-taken", column, severity="note")]
    absent = first[~field.isin(field[kept.index])].drop_duplicates()
    problems += [
        _problem(path, f"the field has no plane {reading.planes}", "planes-open", column, line + 1)
        for line in absent
    ]
    return kept, own[kept.index], problems
