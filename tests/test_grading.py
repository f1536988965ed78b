"""Grades against a truth made by hand, and that no analysis can see it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import well_table
from scipy.spatial.distance import cdist

import mcnn_core
from mcnn_book.simulate.bbbc021 import CHANNELS
from mcnn_book.simulate.cells import PAINTED, PARAMETERS
from mcnn_book.simulate.truth import (
    choice_grades,
    grade_choice,
    grade_clusters,
    grade_novelty,
    grade_occlusion,
    grade_potency,
    grade_tops,
    grades,
    novelty_grades,
    outliers,
    planted_ec50,
    read_truth,
    suspect_grades,
)
from mcnn_core.analysis.novelty import COLUMNS
from mcnn_core.analysis.response import NO_FIT
from mcnn_core.machine.files import read_json, write_json
from mcnn_core.profiles import treatment_profiles
from mcnn_core.screen import CONTROL, Screen

MODULES = Path(mcnn_core.__file__).parent
HIDDEN, WRONG = "hidden mechanism", "wrong label"
#: compound: mechanism, EC50 (uM), what was planted. Three doses each; the response is 0.1, 0.5 and
#: 0.9.
FACTS = {
    "h1": ("Vacuolation", 1.0, HIDDEN),
    "h2": ("Vacuolation", 1.0, HIDDEN),
    "h3": ("Vacuolation", 1.0, HIDDEN),
    "g1": ("Spreading", 2.0, HIDDEN),
    "k": ("Actin", 0.5, ""),
    "w": ("Tubulin", 0.1, WRONG),
    "n": ("Inactive", 4.0, "inactive"),
}
DOSES = {0.1: 0.1, 1.0: 0.5, 10.0: 0.9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the truth of two plates, as the simulator writes it."""
    rows = [(plate, "B02", "DMSO", 0.0, "", 0.0, 1.0, "") for plate in ("P1", "P2")]
    rows += [
        (plate, "C03", compound, dose, mechanism, response, ec50, planted)
        for plate in ("P1", "P2")
        for compound, (mechanism, ec50, planted) in FACTS.items()
        for dose, response in DOSES.items()
    ]
    folder = tmp_path_factory.mktemp("screen")
    pd.DataFrame(
        rows,
        columns=[
            "plate",
            "well",
            "compound",
            "concentration",
            "mechanism",
            "response",
            "ec50",
            "planted",
        ],
    ).to_csv(folder / "truth.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def truth(folder):
    return read_truth(Screen("made by hand", pd.DataFrame(), ("DNA",), folder, True))


def test_truth_belongs_to_simulated_screens(folder, truth, tmp_path):
    assert len(truth) == 2 + 2 * 3 * 7 and set(truth["treatment"]) >= {
        "DMSO",
        "h1 | 0.1",
        "h1 | 1",
        "n | 10",
    }
    assert (truth.loc[truth["compound"] == "DMSO", ["mechanism", "planted"]] == "").all(axis=None)
    assert read_truth(Screen("real", pd.DataFrame(), ("DNA",), folder, False)) is None
    assert read_truth(Screen("simulated", pd.DataFrame(), ("DNA",), tmp_path, True)) is None
    assert planted_ec50(truth)[["h1", "w"]].tolist() == [1.0, 0.1] and planted_ec50(None) is None


def test_choices_by_hand(truth):
    classes = {
        "some": ["h1 | 10", "h2 | 1", "h2 | 10", "w | 0.1", "n | 10"],
        "wells": ["P1 C03"],
        "few": ["k | 1"],
        "none": [],
    }
    found = grade_choice(classes, truth)
    assert found.index.tolist() == ["some", "few", "none"]
    assert found.loc["some"].tolist() == [
        5,
        0.6,
        2,
        1,
    ]  # a weak dose and an inactive compound do not act
    assert found.loc["few"].tolist() == [1, 1.0, 1, 1] and grade_choice(classes, None).empty
    told = choice_grades(classes, truth)
    assert (
        told["some.acting"] == 0.6
        and told["some.mechanisms"] == 1
        and told["wells.acting"] == told["none.acting"] == "not available"
    )
    assert set(choice_grades(classes, None).values()) == {"not available"}


def test_potency_by_hand(truth):
    """Errors of 0, 0.3 and 1 decades.

    Two of three intervals hold the truth; one of four acting compounds has no fit; "n" does not
    act.
    """
    rows = [
        ("h1", 1.0, 0.5, 2.0, "fit"),
        ("h2", 10**0.3, 1.0, 10.0, "fit"),
        ("k", 5.0, 4.0, 8.0, "fit"),
        ("w", np.nan, np.nan, np.nan, NO_FIT["low"]),
        ("n", 400.0, 300.0, 3e9, "fit"),
    ]
    table = pd.DataFrame(rows, columns=["compound", "ec50", "low", "high", "status"])
    found = grade_potency(table, truth)
    assert found == pytest.approx(
        {
            "graded": 4,
            "no_fit": 0.25,
            "median_error": 0.3,
            "coverage": 2 / 3,
            "median_width": np.log10(4),
        }
    )
    nothing = grade_potency(table[3:], truth)
    assert nothing == {"graded": 1, "no_fit": 1.0} | dict.fromkeys(
        ("median_error", "coverage", "median_width"), "not available"
    )
    assert grade_potency(table, None) == dict.fromkeys(found, "not available")


def clustered(**members):
    rows = [
        (name.replace("_", " | "), number)
        for number, names in enumerate(members.values(), 1)
        for name in names.split()
    ]
    return pd.DataFrame(rows, columns=["treatment", "cluster"])


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        # both other doses of a mechanism count for its purity, its highest for what is held
        (
            {
                "one": "h1_10 h2_10 h1_1 h2_1 k_10",
                "two": "h3_10 h3_1 h1_0.1",
                "three": "k_1 n_10 h2_0.1",
            },
            (1, 2, 3, 5, 0.8, True),
        ),
        # purer clusters come before those that hold more, and one of three top doses is less than
        # half
        ({"one": "h1_10 h2_10 k_10 k_1 n_10", "two": "h3_10 h3_1"}, (2, 1, 3, 2, 1.0, False)),
        # where none is pure, the one that holds most
        ({"one": "h1_10 h2_10 k_10 k_1", "two": "h3_10 n_10 n_1"}, (1, 2, 3, 4, 0.5, False)),
    ],
)
def test_clusters_by_hand(truth, members, expected, tmp_path):
    table = pd.concat(
        [clustered(**members), pd.DataFrame({"treatment": ["g1 | 10"], "cluster": [9]})],
        ignore_index=True,
    )
    found = grade_clusters(table, truth)
    assert found.index.tolist() == ["Spreading", "Vacuolation"]
    assert tuple(found.loc["Vacuolation"]) == expected
    assert tuple(found.loc["Spreading"]) == (9, 1, 1, 1, 1.0, True)
    write_json(tmp_path / "clusters.json", found.to_dict("index"))  # as `make study` records it
    assert read_json(tmp_path / "clusters.json")["Vacuolation"]["recovered"] is expected[-1]
    assert (
        grade_clusters(table, None).empty
        and grade_clusters(table, None).columns.tolist() == found.columns.tolist()
    )


@pytest.fixture(scope="module")
def treatments():
    """Profiles of all compounds.

    Those with a hidden mechanism lie away from the rest, more so at high doses.
    """
    generator = np.random.default_rng(0)
    rows = [("P1", "DMSO", 0.0, "", "negcon")]
    rows += [
        ("P1", name, dose, "A" if name in "kw" else "", "trt") for name in FACTS for dose in DOSES
    ]
    values = generator.normal(size=(len(rows), 4))
    values[:, 0] += [
        3 * DOSES.get(dose, 0) * (compound[0] in "hg") for _, compound, dose, *_ in rows
    ]
    return treatment_profiles(well_table(rows, values))


def ranking(first, called):
    """Return a table as ``novel.csv``.

    The named treatments first, the others after them; so many are called novel.
    """
    names = [f"{name} | {dose:g}" for name in FACTS if name not in "kw" for dose in DOSES]
    order = [*first, *sorted(set(names) - set(first))]
    return pd.DataFrame(
        {
            "treatment": order,
            "score": 0.0,
            "novel": [place < called for place in range(len(order))],
            "cluster": 1,
        }
    )


def average_precision(right):
    """Return the mean, over the right ones, of the precision down to each."""
    return np.mean([np.mean(right[: place + 1]) for place, one in enumerate(right) if one])


def test_novelty_by_hand(truth, treatments):
    """Truly novel are the two higher doses of h1 to h3 and g1.

    8 of 15, for the response at the middle one is just a half.
    """
    novel = ranking(["h1 | 10", "n | 1", "h1 | 1", "h1 | 0.1", "g1 | 10"], called=4)
    right = [name[0] in "hg" and not name.endswith("| 0.1") for name in novel["treatment"]]
    assert sum(right) == 8 and right[:5] == [True, False, True, False, True]
    found = grade_novelty(novel, treatments, truth)
    assert (
        found.index.tolist() == ["clusters", "nearest neighbour", "isolation forest", "chance"]
        and (found["called"] == 4).all()
    )
    assert found.loc["clusters", ["precision", "recall"]].tolist() == [2 / 4, 2 / 8]
    assert found.loc["clusters", "average_precision"] == pytest.approx(average_precision(right))
    assert found.loc["chance"].tolist()[1:] == pytest.approx([8 / 15, 4 / 15, 8 / 15])
    assert (
        grade_novelty(novel, treatments, None).empty
        and grade_novelty(novel[:0], treatments, truth).empty
    )


def test_other_detectors_are_asked_about_the_same_treatments(truth, treatments):
    novel = ranking([], called=6)
    found = grade_novelty(novel, treatments, truth)
    score = outliers(treatments).set_index("treatment")
    known = treatments[
        (treatments["Metadata_MoA"] != "") | (treatments["Metadata_control_type"] == "negcon")
    ].filter(like="MCNN")
    near = treatments.set_index("Metadata_Treatment").loc[novel["treatment"]].filter(like="MCNN")
    np.testing.assert_allclose(
        score.loc[novel["treatment"], "nearest neighbour"], cdist(near, known).min(axis=1)
    )
    for detector in ("nearest neighbour", "isolation forest"):
        order = score[detector].sort_values(ascending=False).index
        right = [name[0] in "hg" and not name.endswith("| 0.1") for name in order]
        assert found.loc[detector, ["precision", "recall"]].tolist() == pytest.approx(
            [np.mean(right[:6]), sum(right[:6]) / 8]
        )
        assert found.loc[detector, "average_precision"] == pytest.approx(average_precision(right))


def test_grades_of_detectors_by_key(truth, treatments):
    found = novelty_grades(
        grade_novelty(ranking(["h1 | 10", "n | 1"], called=2), treatments, truth)
    )
    assert (
        found["precision.clusters"] == 0.5
        and found["recall.clusters"] == 1 / 8
        and found["recall.chance"] == pytest.approx(2 / 15)
    )
    assert len(found) == 12 and {
        "average_precision.nearest_neighbour",
        "precision.isolation_forest",
    } <= set(found)
    uncalled = novelty_grades(grade_novelty(ranking([], called=0), treatments, truth))
    assert uncalled["precision.clusters"] == "not available" and uncalled["recall.clusters"] == 0
    unplanted = novelty_grades(
        grade_novelty(ranking([], called=2), treatments, truth.assign(planted=""))
    )
    assert (
        unplanted["recall.clusters"] == unplanted["average_precision.clusters"] == "not available"
        and unplanted["precision.chance"] == 0
    )


def test_rank_of_the_wrong_label(truth):
    table = pd.DataFrame(
        {"treatment": ["k | 10", "w | 10", "w | 1"], "MoA": "A", "nearest_other": ["B", "C", "C"]}
    )
    found = suspect_grades(table, truth)
    assert found == {"suspect": "k 10 µM (A)", "suspect_like": "B", "suspects": 3, "rank": 2}
    assert (
        suspect_grades(table, None)
        == found | {"rank": "not available"}
        == suspect_grades(table[:1], truth) | {"suspects": 3}
    )
    assert set(suspect_grades(table[:0], truth).values()) == {"not available"}


def tables():
    novel = ranking(["h1 | 10", "h2 | 10"], called=2).reindex(columns=COLUMNS)
    return {
        "potency": pd.DataFrame(
            {"compound": ["h1"], "ec50": 1.0, "low": 0.5, "high": 2.0, "status": "fit"}
        ),
        "clusters": clustered(one="h1_10 h2_10 h1_1", two="h3_10 k_10", three="g1_10 k_1"),
        "novel": novel.assign(novel=novel["novel"].astype(bool)),
        "suspects": pd.DataFrame({"treatment": ["w | 10"], "MoA": ["A"], "nearest_other": ["B"]}),
    }


def test_all_grades_in_one(truth, treatments, tmp_path):
    found = grades(tables(), treatments, truth)
    assert (
        found["clusters.hidden"] == 2
        and found["clusters.recovered"] == 1
        and found["clusters.called"] == 2
    )
    assert (
        found["potency.coverage"] == 1
        and found["novel.precision.clusters"] == 1
        and found["suspects.rank"] == 1
    )
    write_json(tmp_path / "grades.json", found)
    assert read_json(tmp_path / "grades.json") == pytest.approx(found)


def test_without_truth_every_grade_says_so(truth, treatments):
    found = grades(tables(), treatments, None)
    graded = {key: value for key, value in found.items() if value != "not available"}
    assert set(found) == set(grades(tables(), treatments, truth))
    # what needs no truth: the first suspect, and counts of what there is
    assert set(graded) == {
        *(f"suspects.{key}" for key in ("suspect", "suspect_like", "suspects")),
        *(f"clusters.{key}" for key in ("hidden", "recovered", "called")),
    }
    assert graded["clusters.hidden"] == graded["clusters.recovered"] == 0


def test_only_grading_reads_the_truth_and_only_the_study_grades():
    sources = {
        str(path.relative_to(MODULES.parent)): path.read_text(encoding="utf-8")
        for path in MODULES.parent.glob("mcnn_*/**/*.py")
    }
    # which write it
    simulators = {f"mcnn_book/simulate/{name}.py" for name in ("bbbc021", "kimorph")}
    assert len(sources) > 20
    assert {name for name, text in sources.items() if "truth.csv" in text} == simulators | {
        "mcnn_book/simulate/truth.py"
    }
    assert {name for name, text in sources.items() if "truth_table" in text} == simulators
    assert not any(
        "truth" in line
        for name in simulators
        for line in sources[name].splitlines()
        if "read_csv" in line
    )
    imports = re.compile(
        r"^\s*(from mcnn_book\.simulate\.truth import|import mcnn_book\.simulate\.truth|"
        r"from mcnn_book\.simulate import .*\btruth\b)",
        re.MULTILINE,
    )
    assert {name for name, text in sources.items() if imports.search(text)} == {
        "mcnn_book/study/study.py"
    }


def test_a_channel_is_right_if_the_mechanism_is_drawn_in_it(folder):
    losses = {"channel DAPI": [0.5, 0.4], "channel Actin": [0.1, 0.2], "channel Tubulin": [0.3, 0]}
    means = pd.DataFrame(losses, index=["Eg5 inhibitors", "Actin disruptors"])
    graded = grade_occlusion(means.assign(**{"scale 1/1": 9.0}), pd.DataFrame({"well": []}))
    assert graded["named"].tolist() == ["DAPI", "DAPI"] and graded["right"].tolist() == [
        True,
        False,
    ]
    assert graded["changed"].tolist() == ["DAPI, Tubulin", "Actin"]
    assert graded["chance"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert grade_occlusion(means, None).empty


def test_every_parameter_that_paints_a_channel_is_one_of_biology():
    biology = list(PARAMETERS)[: list(PARAMETERS).index("stain_dna")]
    assert set.union(*PAINTED.values()) < set(biology)
    assert list(PAINTED) == list(CHANNELS)


def test_compounds_without_annotation_are_graded_by_the_nearest_reference():
    tops = pd.DataFrame(
        {"A": [1.9, 1.0, 1.8], "B": [1.0, 1.2, 1.9], CONTROL: [1.1, 1.5, 1.0]},
        index=["x 1 µM", "y 1 µM", "z 1 µM"],
    )
    truth = pd.DataFrame(
        {"treatment": ["x | 1", "y | 1", "z | 1"], "mechanism": ["A", "Hidden", "A"]}
    )
    assert grade_tops(tops, truth) == {"tops_known": 2, "tops_right": 1}
    assert set(grade_tops(tops, None).values()) == {"not available"}
