"""One road for every method in the comparison table, and the guard against leaks on it.

A method is a frame of fields with ``Metadata_*`` columns, ``Metadata_Training`` among them, and
its features: activations of a network, handcrafted features, intensity statistics. From there
all go the same way, and each step may look at no more than this:

1. standardisation, for features of different units: the training fields, not their labels;
2. ``whiten``, if asked for: the fields of negative controls;
3. PCA at 99 % of the variance: the training fields, not their labels;
4. medians of fields to wells;
5. ``centre``, if asked for: the negative controls of each plate;
6. medians of wells to treatments;
7. nearest neighbour: here, for the first time, ``Metadata_MoA`` is read.

Whitening comes before PCA, which would drop the quiet directions that whitening brings out,
and works on fields, of which there are more than wells to estimate a covariance from.
"""

import pandas as pd

from mcnn_core.errors import InputError
from mcnn_core.features import fit_pca
from mcnn_core.neighbors import PROTOCOLS, answerable, floors, nearest_neighbours, scores
from mcnn_core.profiles import (
    NORMALISATIONS,
    centre,
    feature_columns,
    feature_matrix,
    treatment_profiles,
    well_profiles,
    whiten,
)

COLUMNS = ["method", "protocol", "seed", "overall", "class_median", "n", "low", "high", "left_out"]
FLOORS = {"chance": "chance", "label_frequency": "label frequency", "batch_only": "week only"}


def standardise(fields: pd.DataFrame) -> pd.DataFrame:
    """Scale features to mean 0 and standard deviation 1 over the training fields.

    For features of different units; the activations of one layer share theirs and stay as they
    are. A feature that is constant over the training fields is dropped.
    """
    names = feature_columns(fields)
    values = pd.DataFrame(feature_matrix(fields), columns=names, index=fields.index)
    training = values[fields["Metadata_Training"].to_numpy(dtype=bool)]
    if len(training) < 2:
        raise InputError(
            f"standardisation needs two training fields or more, found {len(training)}"
        )
    spread = training.std()
    varying = spread.index[spread > 1e-9 * training.abs().max()]
    scaled = (values[varying] - training[varying].mean()) / spread[varying]
    return pd.concat([fields.drop(columns=names), scaled], axis=1)


def profile(
    fields: pd.DataFrame, normalisation: str = "none", units_differ: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take one method's fields to well and treatment profiles (steps 1 to 6).

    Parameters
    ----------
    fields : DataFrame
        ``Metadata_*`` columns with ``Metadata_Training``, and the features.
    normalisation : {"none", "centre", "whiten"}
        Nothing, `mcnn_core.profiles.centre` on the wells or `mcnn_core.profiles.whiten` on the
        fields.
    units_differ : bool
        Standardise first; for handcrafted features.

    Returns
    -------
    wells, treatments : DataFrame
        Principal components, with the metadata that is constant within a well or a treatment.
    """
    if normalisation not in NORMALISATIONS:
        raise InputError(
            f"normalisation must be one of {', '.join(NORMALISATIONS)}, got {normalisation!r}"
        )
    if "Metadata_Training" not in fields:
        raise InputError("the fields need Metadata_Training, which says what PCA may be fitted on")
    if units_differ:
        fields = standardise(fields)
    feature_matrix(fields)  # names every field with a missing value before scikit-learn meets it
    if normalisation == "whiten":
        fields = whiten(fields)
    projection = fit_pca(fields[fields["Metadata_Training"].to_numpy(dtype=bool)])
    wells = well_profiles(projection.transform(fields))
    if normalisation == "centre":
        wells = centre(wells)
    return wells, treatment_profiles(wells)


def protocols(treatments: pd.DataFrame) -> list[str]:
    """Return the protocols that a screen can answer: NSCB needs batches, both an annotation."""
    known = treatments[
        (treatments["Metadata_MoA"] != "") & (treatments["Metadata_control_type"] == "trt")
    ]
    if known.empty:
        return []
    batched = "Metadata_Batch" in known and (known["Metadata_Batch"] != "").all()
    return [
        name
        for name in PROTOCOLS
        if (name == "NSC" or batched) and answerable(treatments, name).any()
    ]


def evaluate(treatments: pd.DataFrame, method: str, seed: int) -> pd.DataFrame:
    """Return the predictions of one method under each possible protocol.

    They are as in ``predictions.csv``.
    """
    parts = [nearest_neighbours(treatments, protocol) for protocol in protocols(treatments)]
    if not parts:
        raise InputError(
            "no treatment shares its Metadata_MoA with another compound: "
            "there is nothing to predict"
        )
    return pd.concat(parts, ignore_index=True).assign(method=method, seed=seed)


def comparison(predictions: pd.DataFrame, treatments: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method, protocol and seed, and the floors that need no image.

    Parameters
    ----------
    predictions : DataFrame
        What `evaluate` returned, for any number of methods.
    treatments : DataFrame
        Any method's treatment profiles; only their metadata is read.

    Returns
    -------
    DataFrame
        `COLUMNS`; without rows if there are no predictions. ``left_out`` counts the queries without
        a possible answer. Floors have neither a seed nor an interval: they are exact expectations.
    """
    rows = [
        {"method": method, "protocol": protocol, "seed": seed, **scores(part)}
        for (method, protocol, seed), part in predictions.groupby(
            ["method", "protocol", "seed"], sort=False
        )
    ]
    for protocol in predictions["protocol"].unique():
        table = floors(treatments, protocol)
        rows += [
            {
                "method": label,
                "protocol": protocol,
                "overall": table[name].mean(),
                "n": len(table),
                "class_median": table[name].groupby(table["MoA"]).mean().median(),
            }
            for name, label in FLOORS.items()
            if name in table
        ]
    table = pd.DataFrame(rows, columns=COLUMNS[:-1]).astype({"seed": "Int64"})
    lost = {
        protocol: int((~answerable(treatments, protocol)).sum())
        for protocol in table["protocol"].unique()
    }
    return table.assign(left_out=table["protocol"].map(lost))
