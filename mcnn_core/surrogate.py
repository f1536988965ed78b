"""Surrogate classes: the labels that the screen's own layout provides.

Paper: Results; Methods, "M-CNN". All fields that share the values of some ``Metadata_*`` columns (a
treatment, a well) form one class.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from mcnn_core.columns import joint_codes
from mcnn_core.errors import InputError
from mcnn_core.screen import REQUIRED, field_names


def default_columns(table: pd.DataFrame) -> list[str]:
    """Return the grouping columns used unless others are named: the treatment, else the well."""
    if "Metadata_Compound" in table and (table["Metadata_Compound"].fillna("") != "").any():
        return ["Metadata_Compound", "Metadata_Concentration"]
    return ["Metadata_Plate", "Metadata_Well"]


def surrogate_classes(table: pd.DataFrame, by: Sequence[str], training: np.ndarray) -> pd.DataFrame:
    """Label each training field with the class its metadata puts it in.

    Parameters
    ----------
    table : DataFrame
        One row per field of view.
    by : sequence of str
        ``Metadata_*`` columns; fields with equal values in all of them form a class. A missing
        number is a value of its own (no concentration); a missing text is an error.
    training : (n,) bool array

    Returns
    -------
    DataFrame
        Row i belongs to row i of `table`: plate, well, site, ``surrogate_class`` (str, "" where not
        trained on) and ``label`` (int64 in the sorted order of classes, -1 where not trained on).

    Raises
    ------
    InputError
        If a column is absent or empty, a class has fewer than two fields (all are listed: one field
        says nothing of what its class has in common), or there are fewer than two classes.
    """
    by, training, fields = list(by), np.asarray(training, dtype=bool), field_names(table)
    wrong = [column for column in by if not column.startswith("Metadata_") or column not in table]
    if wrong or not by:
        present = ", ".join(column for column in table if column.startswith("Metadata_"))
        raise InputError(
            f"Surrogate classes need Metadata_ columns of the screen: {present}",
            [f"column {column!r} is not one of them" for column in wrong],
        )
    empty = [
        f"{fields[row]}: column {column} is empty"
        for column in by
        for row in np.flatnonzero(training & unnamed(table, [column]))
    ]
    if empty:
        raise InputError(f"Fields to train on need a value in each of {', '.join(by)}", empty)
    names = class_names(table, by).astype(str).where(training, "")
    counts = names[training].value_counts().sort_index()
    small = counts[counts < 2]
    if len(small):
        raise InputError(
            f"A surrogate class needs at least two fields; {len(small)} of {len(counts)} classes "
            f"by {', '.join(by)} have one",
            [f"class {name!r}: 1 field" for name in small.index],
        )
    if len(counts) < 2:
        raise InputError(
            f"Training needs at least two surrogate classes; {', '.join(by)} gives {len(counts)}"
        )
    labels = counts.index.get_indexer(names)
    return table[REQUIRED].assign(surrogate_class=names.to_numpy(), label=labels.astype("int64"))


class BalancedBatches:
    """Batches in which every class occurs equally often, whatever its size.

    An epoch draws about as many fields as there are training fields: every class once before any
    again, and within a class every field once before any again, across epochs. Taxol 0.3 uM, 1,332
    of the 2,528 annotated fields of BBBC021, thus weighs as much as any other class. The order
    depends on `seed` and the epoch alone.

    Parameters
    ----------
    labels : (n,) int array
        Class of each field; -1 marks fields that are not drawn.
    batch : int
        Fields per batch, up to rounding: batches of an epoch differ by at most one field, since
        a left-over batch of one field would break batch normalisation.
    seed : int
    """

    def __init__(self, labels: np.ndarray, batch: int, seed: int):
        labels = np.asarray(labels)
        self.members = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
        empty = [f"class {label}" for label, rows in enumerate(self.members) if not len(rows)]
        if empty or not self.members:
            raise InputError(
                "Labels must count from 0 with at least one field in every class", empty
            )
        self.seed = seed
        self.per_class = max(1, round(int((labels >= 0).sum()) / len(self.members)))
        self.n_batches = max(1, round(self.per_class * len(self.members) / batch))

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.n_batches

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the arrays of field rows (int64) of one epoch, counted from 0."""
        draws = np.stack([self._draw(label, epoch) for label in range(len(self.members))])
        rng = np.random.default_rng([self.seed, 0, epoch])
        rounds = [draws[rng.permutation(len(draws)), k] for k in range(self.per_class)]
        yield from np.array_split(np.concatenate(rounds), self.n_batches)

    def _draw(self, label: int, epoch: int) -> np.ndarray:
        """Rows of one class for one epoch: a window of an endless row of shuffled passes."""
        members, first = self.members[label], epoch * self.per_class
        before, start = divmod(first, len(members))
        passes = range(before, (first + self.per_class - 1) // len(members) + 1)
        generators = (np.random.default_rng([self.seed, 1, label, k]) for k in passes)
        shuffled = np.concatenate([generator.permutation(members) for generator in generators])
        return shuffled[start : start + self.per_class]


def class_names(table: pd.DataFrame, by: Sequence[str]) -> pd.Series:
    """Return the class of each field, training field or not: the values of `by`, joined."""
    codes, first = joint_codes(*(table[column] for column in by))
    texts = (_text(table[column].iloc[first]) for column in by)
    names = pd.Categorical([" | ".join(values) for values in zip(*texts, strict=True)])
    return pd.Series(names.take(codes), table.index)


def unnamed(table: pd.DataFrame, by: Sequence[str]) -> np.ndarray:
    """Return the mask of the fields without text in one of the columns `by`; numbers may lack."""
    empty = np.zeros(len(table), bool)
    for column in by:
        if not pd.api.types.is_numeric_dtype(table[column]):
            empty |= (table[column].isna() | (table[column] == "")).to_numpy(bool)
    return empty


def _text(column: pd.Series) -> pd.Series:
    """Values as text that is equal where the values are; numbers without exponent noise."""
    if pd.api.types.is_float_dtype(column):
        return column.map(lambda value: "" if pd.isna(value) else f"{value:.10g}").astype(str)
    return column.fillna("").astype(str)


def training_fields(table: pd.DataFrame, controls: bool = False) -> np.ndarray:
    """Return the mask of the fields that the network trains on.

    As in the paper those of annotated treatments (*Results*: "exclusively with the pixel data
    of annotated images"); where nothing is annotated, all treatments. Negative controls are added
    for the analysis of the whole screen (`controls`), positive ones never.
    Whether a field has an annotation is used, what it says is not.
    """
    kind = table["Metadata_control_type"].to_numpy()
    treatment = kind == "trt"
    annotated = treatment & (table["Metadata_MoA"] != "").to_numpy()
    chosen = annotated if annotated.any() else treatment
    return chosen | (kind == "negcon") if controls else chosen
