import numpy as np
import pandas as pd
import pytest

from mcnn_core.errors import InputError
from mcnn_core.screen import field_names
from mcnn_core.surrogate import BalancedBatches, default_columns, surrogate_classes


@pytest.fixture
def table():
    rows = [
        ("P1", f"B{well:02d}", site, compound, concentration)
        for well, compound, concentration in [
            (2, "DMSO", 0.0),
            (3, "taxol", 0.3),
            (4, "taxol", 3.0),
            (5, "taxol", 0.3),
        ]
        for site in (1, 2)
    ]
    return pd.DataFrame(
        rows,
        columns=[
            "Metadata_Plate",
            "Metadata_Well",
            "Metadata_Site",
            "Metadata_Compound",
            "Metadata_Concentration",
        ],
    )


def test_fields_with_equal_metadata_form_a_class(table):
    training = table["Metadata_Compound"] != "DMSO"
    classes = surrogate_classes(table, ["Metadata_Compound", "Metadata_Concentration"], training)
    assert list(classes) == [
        "Metadata_Plate",
        "Metadata_Well",
        "Metadata_Site",
        "surrogate_class",
        "label",
    ]
    assert list(classes["label"]) == [-1, -1, 0, 0, 1, 1, 0, 0]
    assert list(classes["surrogate_class"].unique()) == ["", "taxol | 0.3", "taxol | 3"]
    assert classes["label"].dtype == np.int64


def test_any_metadata_column_will_do(table):
    classes = surrogate_classes(table, ["Metadata_Plate", "Metadata_Well"], np.ones(8, bool))
    assert list(classes["label"]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert surrogate_classes(table, ["Metadata_Site"], np.ones(8, bool))["label"].nunique() == 2


def test_default_is_the_treatment_else_the_well(table):
    assert default_columns(table) == ["Metadata_Compound", "Metadata_Concentration"]
    assert default_columns(table.assign(Metadata_Compound="")) == [
        "Metadata_Plate",
        "Metadata_Well",
    ]


def test_a_missing_number_is_a_value_and_a_missing_text_is_not(table):
    no_dose = table.assign(Metadata_Concentration=np.nan)
    assert surrogate_classes(no_dose, default_columns(table), np.ones(8, bool))["label"].max() == 1
    table.loc[[2, 5], "Metadata_Compound"] = ["", None]
    with pytest.raises(InputError) as error:
        surrogate_classes(table, default_columns(table), np.ones(8, bool))
    assert error.value.problems == [
        "plate P1, well B03, site 1: column Metadata_Compound is empty",
        "plate P1, well B04, site 2: column Metadata_Compound is empty",
    ]


def test_small_classes_are_all_listed(table):
    with pytest.raises(InputError) as error:
        surrogate_classes(table.drop(index=[1, 5]), default_columns(table), np.ones(6, bool))
    assert error.value.problems == ["class 'DMSO | 0': 1 field", "class 'taxol | 3': 1 field"]


def test_wrong_columns_and_a_single_class_are_refused(table):
    with pytest.raises(InputError) as error:
        surrogate_classes(table, ["Metadata_Nothing", "FileName_DAPI"], np.ones(8, bool))
    assert len(error.value.problems) == 2
    with pytest.raises(InputError, match="Metadata_ columns"):
        surrogate_classes(table, [], np.ones(8, bool))
    with pytest.raises(InputError, match="at least two surrogate classes"):
        surrogate_classes(table, ["Metadata_Plate"], np.ones(8, bool))
    with pytest.raises(InputError, match=r"without gaps|every class"):
        BalancedBatches(np.array([0, 2, 2]), 2, 0)


def test_no_class_dominates():
    """Taxol's 1,332 of 2,528 annotated fields are drawn as often as a class of 12."""
    labels = np.concatenate([np.zeros(1332, int), np.repeat(np.arange(1, 101), 12), [-1] * 50])
    sampler = BalancedBatches(labels, batch=32, seed=0)
    epochs = [list(sampler.batches(epoch)) for epoch in range(6)]
    for batches in epochs:
        drawn = np.bincount(labels[np.concatenate(batches)], minlength=101)
        assert len(set(drawn)) == 1 and abs(drawn.sum() - 2532) <= 101 / 2
        assert {len(batch) for batch in batches} <= {31, 32, 33} and len(batches) == len(sampler)
    rows = np.concatenate([batch for batches in epochs for batch in batches])
    assert (labels[rows] >= 0).all()
    times = np.bincount(rows, minlength=len(labels))
    for label in range(101):  # without replacement: no field twice before every field once
        assert np.ptp(times[labels == label]) <= 1


def test_draws_depend_on_seed_and_epoch_alone():
    labels = np.arange(40) % 5

    def draw(seed, epoch):
        return np.concatenate(list(BalancedBatches(labels, 8, seed).batches(epoch)))

    assert (draw(1, 3) == draw(1, 3)).all()
    assert (draw(1, 3) != draw(1, 4)).any() and (draw(1, 3) != draw(2, 3)).any()
    assert sorted(draw(1, 3)) == list(range(40))


def test_fields_have_names(table):
    assert field_names(table)[0] == "plate P1, well B02, site 1"
