import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from mcnn_core import profiles
from mcnn_core.analysis import mechanisms, methods
from mcnn_core.analysis.mechanisms import answerable
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_columns, feature_matrix

HANDCRAFTED = [f"HC_{i:03d}" for i in range(1, 7)]


@pytest.fixture
def fields():
    """Four mechanisms of two compounds, in two weeks, with DMSO.

    Only treated fields are trained on.
    """
    generator = np.random.default_rng(8)
    rows, values = [], []
    for week in ("Week1", "Week2"):
        for replicate in (1, 2):
            plate = f"{week}_{replicate}"
            wells = ["DMSO"] * 6 + [
                f"c{m}{c}" for m in range(4) for c in range(2) if (c + m) % 2 == (week == "Week2")
            ]
            for w, compound in enumerate(wells):
                mechanism = "" if compound == "DMSO" else f"m{compound[1]}"
                effect = np.zeros(6) if not mechanism else 3 * np.eye(6)[int(compound[1])]
                for site in (1, 2):
                    rows.append(
                        (
                            plate,
                            f"B{w + 2:02d}",
                            site,
                            compound,
                            1.0 if mechanism else 0.0,
                            f"{compound} | 1" if mechanism else "DMSO",
                            mechanism,
                            week,
                            "trt" if mechanism else "negcon",
                            bool(mechanism),
                        )
                    )
                    values.append(
                        (effect + generator.normal(0, 0.5, 6)) * [1, 10, 1, 100, 1, 1] + 5
                    )
    names = ["Plate", "Well", "Site", "Compound", "Concentration", "Treatment", "MoA"]
    names += ["Batch", "control_type", "Training"]
    return pd.DataFrame(rows, columns=[f"Metadata_{n}" for n in names]).join(
        pd.DataFrame(values, columns=HANDCRAFTED)
    )


@pytest.mark.parametrize("normalisation", profiles.NORMALISATIONS)
@pytest.mark.parametrize("units_differ", [False, True])
def test_profiles_read_no_mechanism_and_fit_on_training_fields_only(
    fields, normalisation, units_differ
):
    wells, treatments = profiles.profile(fields, normalisation, units_differ)
    shuffled = fields.assign(
        Metadata_MoA=fields.Metadata_MoA.sample(frac=1, random_state=0).to_numpy()
    )
    for got, again in zip(
        (wells, treatments), profiles.profile(shuffled, normalisation, units_differ), strict=True
    ):
        np.testing.assert_array_equal(feature_matrix(got), feature_matrix(again))
    # a new well that is no training field must leave every other profile as it was
    extra = fields.iloc[-2:].assign(
        Metadata_Training=False, Metadata_Well="G11", Metadata_Treatment="held | 1"
    )
    extra[HANDCRAFTED] = 1e4
    more, _ = profiles.profile(
        pd.concat([fields, extra], ignore_index=True), normalisation, units_differ
    )
    np.testing.assert_array_equal(
        feature_matrix(more[more.Metadata_Well != "G11"]), feature_matrix(wells)
    )


def test_agrees_with_scikit_learn_and_numpy(fields):
    training = fields.Metadata_Training
    scaler = StandardScaler().fit(fields.loc[training, HANDCRAFTED])
    scaled = profiles.standardise(fields.assign(HC_007=3.0))
    assert feature_columns(scaled) == HANDCRAFTED
    n = training.sum()
    expected = scaler.transform(fields[HANDCRAFTED]) * np.sqrt((n - 1) / n)
    np.testing.assert_allclose(scaled[HANDCRAFTED], expected, rtol=1e-9, atol=1e-12)
    pca = PCA(0.99, svd_solver="full").fit(expected[training])
    wells, treatments = profiles.profile(fields, units_differ=True)
    scores = (
        pd.DataFrame(pca.transform(expected))
        .groupby([fields.Metadata_Plate, fields.Metadata_Well])
        .median()
    )
    np.testing.assert_allclose(np.abs(feature_matrix(wells)), np.abs(scores), atol=1e-9)
    assert {"Metadata_MoA", "Metadata_Batch", "Metadata_Concentration", "Metadata_Compound"} <= set(
        treatments
    )


def test_predictions_and_the_table(fields):
    _, treatments = profiles.profile(fields, "centre", units_differ=True)
    predictions = methods.evaluate(treatments, "handcrafted, centred", seed=3)
    assert list(predictions.columns) == [
        "compound",
        "concentration",
        "MoA",
        "predicted",
        "neighbour",
        "distance",
        "protocol",
        "average_precision",
        "method",
        "seed",
    ]
    table = methods.comparison(predictions, treatments).set_index(["method", "protocol"])
    best = table.loc[("handcrafted, centred", "NSC")]
    assert (
        best.overall == 1
        and best.n == 8
        and best.left_out == 0
        and best.seed == 3
        and best.low > 0.6
    )
    assert table.loc[("chance", "NSC"), "overall"] == pytest.approx(1 / 7)
    assert table.loc[("week only", "NSCB"), "overall"] == 0 and pd.isna(
        table.loc[("chance", "NSC"), "low"]
    )
    assert set(table.index.get_level_values("method")) == {
        "handcrafted, centred",
        "chance",
        "label frequency",
        "week only",
    }


def test_screens_without_batches_or_annotation(fields):
    _, treatments = profiles.profile(fields)
    assert mechanisms.protocols(treatments) == ["NSC", "NSCB"]
    assert mechanisms.protocols(treatments.drop(columns="Metadata_Batch")) == ["NSC"]
    assert mechanisms.protocols(treatments.assign(Metadata_Batch="")) == ["NSC"]
    one_week = treatments.assign(Metadata_Batch="Week1")
    assert mechanisms.protocols(one_week) == ["NSC"] and not answerable(one_week, "NSCB").any()
    for unannotated in ("", treatments.Metadata_Compound):
        with pytest.raises(InputError, match="nothing to predict"):
            methods.evaluate(treatments.assign(Metadata_MoA=unannotated), "any", 0)


def test_refusals(fields):
    with pytest.raises(InputError, match="none, centre, whiten"):
        profiles.profile(fields, "best")
    with pytest.raises(InputError, match="Metadata_Training"):
        profiles.profile(fields.drop(columns="Metadata_Training"))
    with pytest.raises(InputError, match="two training fields"):
        profiles.standardise(fields.assign(Metadata_Training=False))
    fields.loc[4, "HC_002"] = np.nan
    with pytest.raises(InputError, match="Week1_1 B04 1: HC_002"):
        profiles.profile(fields)
