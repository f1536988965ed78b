"""Which treatments have an effect, and which of those are like nothing known."""

import numpy as np
import pandas as pd
import pytest
from helpers import well_table
from scipy.spatial.distance import cosine
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

from mcnn_book.results import strengths
from mcnn_book.simulate.truth import outliers
from mcnn_core.analysis import novelty as novelty_module
from mcnn_core.analysis.novelty import (
    COLUMNS,
    activity,
    known,
    novelty,
    unannotated,
)
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_columns, feature_matrix, treatment_profiles

PLATES = [f"P{number}" for number in range(1, 7)]
FEATURES = 30


def wells_of(effects, seed=0, plates=PLATES[:3], controls=16, annotation=None):
    """Return one well per plate of each treatment, and controls.

    A treatment's effect lies in noise around an offset of the plate.
    """
    generator = np.random.default_rng(seed)
    rows, values = [], []
    for plate in plates:
        offset = generator.normal(0, 3, FEATURES)
        rows += [(plate, "DMSO", 0.0, "", "negcon")] * controls
        values += list(offset + generator.normal(size=(controls, FEATURES)))
        for compound, effect in effects.items():
            rows.append((plate, compound, 1.0, (annotation or {}).get(compound, ""), "trt"))
            values.append(offset + generator.normal(size=FEATURES) + effect)
    return well_table(rows, np.array(values))


def axis(number):
    return 10.0 * np.eye(FEATURES)[number]


# -------------------------------------------------------------------------- strength


def test_strength_is_the_distance_from_controls_of_the_plate_in_units_of_theirs():
    wells = wells_of({"strong": 5 * axis(0), "weak": 0 * axis(1)})
    found = strengths(wells)
    medians = found.groupby("name")["strength"].median()
    assert medians["strong 1 µM"] > 5 > 2 > medians["weak 1 µM"]
    assert found.loc[found["control"], "strength"].median() == pytest.approx(1)
    said = found.groupby("name")["replicates"].first()
    assert said["strong 1 µM"] == "agree" and said["DMSO"] == "not tested"
    assert set(found["replicates"]) <= {"agree", "do not agree", "not tested"}


@pytest.mark.parametrize("plates", [PLATES[:1], PLATES[:3]])
def test_strength_without_controls_counts_from_the_median_of_the_plate(plates):
    wells = wells_of(
        {"strong": 5 * axis(0), **{f"c{n}": 0 * axis(0) for n in range(8)}}, plates=plates
    )
    wells = wells[wells["Metadata_control_type"] == "trt"].reset_index(drop=True)
    found = strengths(wells)
    assert set(found["replicates"]) == {"not tested"} and not found["control"].any()
    assert found.groupby("name")["strength"].median().idxmax() == "strong 1 µM"
    assert found["strength"].median() == pytest.approx(1)


def test_strength_of_wells_without_a_treatment_or_a_difference():
    wells = wells_of({"a": axis(0)}, controls=0, plates=PLATES[:2]).assign(Metadata_Treatment="")
    wells[feature_columns(wells)] = 1.0
    found = strengths(wells)
    assert (found["strength"] == 0).all() and found["name"].str.startswith("P").all()


# -------------------------------------------------------------------------- activity


def test_effects_are_active_and_noise_is_not():
    effects = {f"noise {i:03d}": 0 * axis(0) for i in range(300)} | {
        f"strong {i}": axis(i) for i in range(8)
    }
    found = activity(wells_of(effects, plates=PLATES))
    strong = found.index.str.startswith("strong")
    assert len(found) == 308 and (found["wells"] == 6).all() and found["active"][strong].all()
    assert 0.01 < found["active"][~strong].mean() < 0.10  # 5 % are meant to pass
    assert (
        found["threshold"].nunique() == 1
        and (found["active"] == (found["agreement"] > found["threshold"])).all()
    )


def test_agreement_is_the_median_cosine_between_centred_wells():
    wells = wells_of({"a": axis(0), "b": 0 * axis(0)}, plates=PLATES[:4])
    found = activity(wells)
    for treatment, part in wells[wells["Metadata_control_type"] == "trt"].groupby(
        "Metadata_Treatment"
    ):
        moved = []
        for _, well in part.iterrows():
            control = wells[
                (wells["Metadata_Plate"] == well["Metadata_Plate"])
                & (wells["Metadata_control_type"] == "negcon")
            ]
            moved.append(
                well[feature_columns(wells)].to_numpy(float)
                - control[feature_columns(wells)].median().to_numpy()
            )
        pairs = [1 - cosine(moved[i], moved[j]) for i in range(4) for j in range(i)]
        assert found.loc[treatment, "agreement"] == pytest.approx(np.median(pairs))


def test_the_yardstick_is_the_agreement_of_controls():
    """With as many wells as there are controls every draw is all of them.

    The threshold is then their own agreement.
    """
    wells = wells_of({"a": axis(0)}, plates=["P1"], controls=4)
    treated = wells[wells["Metadata_control_type"] == "trt"]
    found = activity(pd.concat([wells, treated, treated, treated], ignore_index=True))
    control = feature_matrix(wells[wells["Metadata_control_type"] == "negcon"])
    control = control - np.median(control, axis=0)
    assert found.loc["a | 1", "threshold"] == pytest.approx(
        np.median([1 - cosine(control[i], control[j]) for i in range(4) for j in range(i)])
    )


def test_the_only_control_of_a_plate_says_nothing():
    """It is its own centre and has no direction.

    Where that leaves no yardstick, all count as active.
    """
    found = activity(wells_of({"a": axis(0), "noise": 0 * axis(0)}, controls=1))
    assert (
        found["threshold"].isna().all()
        and found["agreement"].notna().all()
        and found["active"].all()
    )
    wells = wells_of({"a": axis(0), "b": axis(1)}, plates=PLATES[:4])
    alone = (
        (wells["Metadata_control_type"] == "negcon")
        & (wells["Metadata_Plate"] == "P1")
        & (wells["Metadata_Well"] != "A01")
    )
    assert activity(wells[~alone])["threshold"].notna().all()


def test_draws_depend_on_the_seed_alone():
    wells = wells_of({"a": axis(0), "b": axis(1)})
    first = activity(wells, seed=4)
    pd.testing.assert_frame_equal(activity(wells, seed=4), first, check_exact=True)
    pd.testing.assert_frame_equal(
        activity(wells.assign(Metadata_MoA="x"), seed=4), first, check_exact=True
    )
    assert (activity(wells, seed=5)["threshold"] != first["threshold"]).all()


def test_a_single_well_cannot_be_tested_and_counts_as_active():
    wells = wells_of({"a": axis(0), "once": 0 * axis(0)})
    wells = wells[(wells["Metadata_Compound"] != "once") | (wells["Metadata_Plate"] == "P1")]
    found = activity(wells)
    assert (
        found.loc["once | 1", "active"]
        and found.loc["once | 1", "wells"] == 1
        and np.isnan(found.loc["once | 1", "agreement"])
    )
    assert (
        found.loc["a | 1", "agreement"] > found.loc["a | 1", "threshold"]
        and found.index.name == "treatment"
    )
    assert (
        activity(wells[wells["Metadata_control_type"] == "negcon"]).columns.tolist()
        == found.columns.tolist()
    )


def test_controls_are_needed_on_every_plate():
    wells = wells_of({"a": axis(0)})
    with pytest.raises(InputError) as error:
        activity(
            wells[(wells["Metadata_Plate"] != "P2") | (wells["Metadata_control_type"] == "trt")]
        )
    assert error.value.problems == ["P2"]


# --------------------------------------------------------------------------- novelty


@pytest.fixture(scope="module")
def planted():
    """Two known mechanisms, two new phenotypes, one compound like a known one, and noise.

    Of the new phenotypes one is nearer to a known one.
    """
    effects = {
        "a1": axis(0),
        "a2": axis(0),
        "b1": axis(1),
        "b2": axis(1),
        "far 1": axis(2),
        "far 2": axis(2),
        "near 1": axis(3) + 0.5 * axis(1),
        "near 2": axis(3) + 0.5 * axis(1),
        "like a": axis(0),
        "noise": 0 * axis(0),
    }
    wells = wells_of(effects, seed=1, annotation={"a1": "A", "a2": "A", "b1": "B", "b2": "B"})
    middle = (
        wells.loc[wells["Metadata_control_type"] == "negcon"]
        .groupby("Metadata_Plate")[feature_columns(wells)]
        .mean()
    )
    wells[feature_columns(wells)] -= middle.loc[wells["Metadata_Plate"]].to_numpy()
    treatments = treatment_profiles(wells)
    names = {
        "a1": 1,
        "a2": 1,
        "like a": 1,
        "b1": 2,
        "b2": 2,
        "far 1": 3,
        "far 2": 3,
        "near 1": 4,
        "near 2": 4,
        "noise": 5,
        "DMSO": 6,
    }
    return wells, treatments, treatments["Metadata_Compound"].map(names).to_frame("cluster")


def test_new_phenotypes_come_first(planted):
    wells, treatments, clusters = planted
    got = novelty(wells, treatments, clusters)
    assert got.columns.tolist() == COLUMNS
    assert set(got["treatment"][:2]) == {"far 1 | 1", "far 2 | 1"} and set(
        got["treatment"][2:4]
    ) == {"near 1 | 1", "near 2 | 1"}
    assert got["novel"].tolist() == [True] * 4 + [False] * 2 and got["score"][0] >= got["score"][1]
    rest = got.set_index("treatment")
    assert (
        rest.loc["like a | 1", "active"]
        and not rest.loc["noise | 1", "active"]
        and rest.loc["noise | 1", "score"] > 0.3
    )
    assert rest.loc["far 1 | 1", "cluster_score"] == pytest.approx(np.median(got["score"][:2]))
    assert rest.loc[["like a | 1", "noise | 1"], "cluster_score"].isna().all()


def test_clusters_are_ranked_by_their_median_and_then_their_treatments(planted, monkeypatch):
    """By hand: scores of 1 and 0.5 in one cluster, 0.9 twice in another.

    So the other comes first.
    """
    cosines = {"known": 1, "a": 0, "b": 0.5, "c": 0.1, "d": 0.1, "inactive": -0.9}
    rows = [("P1", name, 1.0, "A" if name == "known" else "", "trt") for name in cosines]
    treatments = treatment_profiles(
        well_table(rows, np.array([(value, np.sqrt(1 - value**2)) for value in cosines.values()]))
    )
    clusters = treatments["Metadata_Compound"].map(
        {"known": 1, "a": 2, "b": 2, "c": 3, "d": 3, "inactive": 2}
    )
    tested = pd.DataFrame(
        {"agreement": 0.5, "threshold": 0.2, "active": True}, index=treatments["Metadata_Treatment"]
    )
    tested.loc["inactive | 1", "active"] = False
    # What was not tested counts as active.
    monkeypatch.setattr(novelty_module, "activity", lambda wells: tested.drop("d | 1"))
    got = novelty(planted[0], treatments, clusters.to_frame("cluster"))
    assert got["treatment"].tolist() == ["c | 1", "d | 1", "a | 1", "b | 1", "inactive | 1"]
    np.testing.assert_allclose(got["score"], [0.9, 0.9, 1, 0.5, 1.9])
    np.testing.assert_allclose(got["cluster_score"], [0.9, 0.9, 0.75, 0.75, 0.75])
    assert got["novel"].tolist() == [True] * 4 + [False]


def test_scores_are_distances_to_the_nearest_known_profile(planted):
    wells, treatments, clusters = planted
    values = feature_matrix(treatments)
    old = [
        i
        for i, one in enumerate(treatments.itertuples())
        if one.Metadata_MoA or one.Metadata_control_type == "negcon"
    ]
    got = novelty(wells, treatments, clusters).set_index("treatment")
    for i in set(range(len(treatments))) - set(old):
        assert got.loc[treatments["Metadata_Treatment"][i], "score"] == pytest.approx(
            min(cosine(values[i], values[j]) for j in old)
        )
    assert len(got) + len(old) == len(treatments)


def test_what_an_annotation_says_does_not_matter(planted):
    wells, treatments, clusters = planted
    expected = novelty(wells, treatments, clusters)
    scrambled = treatments.assign(
        Metadata_MoA=treatments["Metadata_MoA"].replace({"A": "B", "B": "something else"})
    )
    pd.testing.assert_frame_equal(novelty(wells, scrambled, clusters), expected, check_exact=True)
    fewer = treatments.assign(
        Metadata_MoA=treatments["Metadata_MoA"].mask(treatments["Metadata_Compound"] == "b1", "")
    )
    # That there is none does.
    assert len(novelty(wells, fewer, clusters)) == len(expected) + 1


def test_positive_controls_are_neither_known_nor_candidates(planted):
    """One annotated and one not, each lying on a new phenotype."""
    wells, treatments, clusters = planted
    controls = treatments[treatments["Metadata_Compound"].isin(["far 1", "near 1"])].assign(
        Metadata_Treatment=["taxol | 1", "monensin | 1"],
        Metadata_control_type="poscon",
        Metadata_MoA=["tubulin", ""],
    )
    more = pd.concat([treatments, controls], ignore_index=True)
    assert not known(more)[-2:].any() and not unannotated(more)[-2:].any()
    got = novelty(
        wells, more, pd.concat([clusters, clusters.loc[controls.index]], ignore_index=True)
    )
    pd.testing.assert_frame_equal(got, novelty(wells, treatments, clusters))


def test_a_screen_that_is_annotated_throughout_has_nothing_new(planted):
    wells, treatments, clusters = planted
    full = treatments.assign(
        Metadata_MoA=treatments["Metadata_MoA"].where(treatments["Metadata_MoA"] != "", "C")
    )
    got = novelty(wells, full, clusters)
    assert got.empty and got.columns.tolist() == COLUMNS


def test_baselines_are_those_of_scikit_learn(planted):
    _, treatments, _ = planted
    new = treatments[
        (treatments["Metadata_MoA"] == "") & (treatments["Metadata_control_type"] == "trt")
    ]
    old = feature_matrix(treatments.drop(new.index))
    got = outliers(treatments, seed=3)
    assert got["treatment"].tolist() == new["Metadata_Treatment"].tolist()
    nearest = (
        NearestNeighbors(n_neighbors=1, algorithm="ball_tree")
        .fit(old)
        .kneighbors(feature_matrix(new))[0][:, 0]
    )
    np.testing.assert_allclose(got["nearest neighbour"], nearest)
    forest = (
        IsolationForest(n_estimators=300, random_state=3)
        .fit(old)
        .decision_function(feature_matrix(new))
    )
    # scikit-learn's own offset is -0.5, and low means strange.
    np.testing.assert_allclose(got["isolation forest"], 0.5 - forest)
    fewer = outliers(treatments.drop(new.index[:2]), seed=3)
    # The detectors never saw the others.
    pd.testing.assert_frame_equal(fewer, got[2:].reset_index(drop=True))
