"""Average precision against hand-made rankings, scikit-learn and the reference implementation."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from mcnn_core.analysis.activity import (
    DRAWS,
    activity,
    average_precision,
    consistency,
    random_precision,
)


def wells(n_treatments=6, replicates=4, controls=10, effect=2.0, seed=0):
    """Made wells on two plates; the first half of the treatments has an effect."""
    rng = np.random.default_rng(seed)
    names = [f"t{number}" for number in range(n_treatments) for _ in range(replicates)]
    directions = rng.normal(size=(n_treatments, 8)) * effect
    directions[n_treatments // 2 :] = 0
    x = np.concatenate([np.repeat(directions, replicates, axis=0), np.zeros((controls, 8))])
    x += rng.normal(size=x.shape)
    treatment = names + ["DMSO"] * controls
    table = pd.DataFrame(
        {
            "Metadata_Plate": [f"P{row % 2}" for row in range(len(x))],
            "Metadata_Well": [f"A{row + 1:02d}" for row in range(len(x))],
            "Metadata_Treatment": treatment,
            "Metadata_Compound": treatment,
            "Metadata_MoA": "",
            "Metadata_control_type": ["trt"] * len(names) + ["negcon"] * controls,
        }
    )
    return table.join(pd.DataFrame(x, columns=[f"MCNN_{k:03d}" for k in range(1, 9)]))


def test_average_precision_of_a_ranking():
    """Found at ranks 1, 3 and 4 of 5; the row itself is no candidate."""
    distances = np.array([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]])
    positive = np.array([[False, True, False, True, True, False]])
    candidate = np.array([[False, True, True, True, True, True]])
    found = average_precision(distances, positive, candidate)
    assert found == pytest.approx([(1 + 2 / 3 + 3 / 4) / 3])
    assert np.isnan(average_precision(distances, positive & False, candidate))
    assert np.isnan(average_precision(distances, candidate, candidate))


def test_ties_count_against_the_positive():
    """At equal distance what is not looked for comes first."""
    found = average_precision(
        np.zeros((1, 2)), np.array([[True, False]]), np.ones((1, 2), dtype=bool)
    )
    assert found == pytest.approx([0.5])


def test_average_precision_is_that_of_scikit_learn():
    """Of random rankings without ties."""
    rng = np.random.default_rng(1)
    distances, positive = rng.random((20, 30)), rng.random((20, 30)) < 0.3
    positive[:, 0], positive[:, 1] = True, False
    candidate = positive | (rng.random((20, 30)) < 0.7)
    candidate[:, 1] = True
    expected = [
        average_precision_score(p[c], -d[c])
        for d, p, c in zip(distances, positive, candidate, strict=True)
    ]
    np.testing.assert_allclose(average_precision(distances, positive, candidate), expected)


def test_random_rankings_have_the_mean_of_all_rankings():
    """One wanted of four: 1, 1/2, 1/3 and 1/4 are equally likely."""
    drawn = random_precision(1, 4, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, abs=0.01)


def test_what_acts_is_told_from_what_does_not():
    """Three of six made treatments have an effect."""
    found = activity(wells(effect=4.0, controls=40))
    assert found.index[found["significant"]].tolist() == ["t0", "t1", "t2"]
    assert found["wells"].tolist() == [4] * 6
    assert found["p_value"].between(1 / (1 + DRAWS), 1).all()


def test_wells_on_several_plates_meet_the_controls_of_all_of_them():
    """Three wells and six controls of one plate could not be significant."""
    table = wells(n_treatments=40, replicates=3, controls=18, effect=6.0)
    plates = [f"P{n % 3}" for n in range(3)] * 40 + [f"P{n % 3}" for n in range(18)]
    found = activity(table.assign(Metadata_Plate=plates))["significant"]
    acting = [f"t{number}" for number in range(20)]
    assert found[acting].all() and found.drop(acting).sum() <= 2


def test_controls_of_the_own_plates_are_the_candidates():
    """A control of another plate counts only where the own plates have none."""
    table = wells()
    moved = table.copy()
    other = (table["Metadata_control_type"] == "negcon") & (table["Metadata_Plate"] == "P1")
    features = table.filter(regex="^MCNN").columns
    one = table[(table["Metadata_Plate"] == "P0") | other]
    moved.loc[other, features] = 1e3
    both = [activity(part[part.index.isin(one.index)]) for part in (table, moved)]
    pd.testing.assert_frame_equal(*both)
    only = table[(table["Metadata_control_type"] != "negcon") | other]
    far = moved[(moved["Metadata_control_type"] != "negcon") | other]
    assert not activity(only).equals(activity(far))


def test_without_controls_or_replicates_nothing_is_tested():
    """A table without rows, not an error."""
    table = wells()
    assert activity(table[table["Metadata_control_type"] == "trt"]).empty
    assert activity(table.drop_duplicates("Metadata_Treatment")).empty
    assert consistency(table).empty


def test_consistency_leaves_the_own_compound_and_the_unannotated_out():
    """Two doses of one compound are no proof of a mechanism."""
    x = np.eye(4).repeat(2, axis=0) + 1e-3 * np.random.default_rng(0).random((8, 4))
    treatments = pd.DataFrame(
        {
            "Metadata_Treatment": [f"c{row // 2} | {row % 2}" for row in range(8)],
            "Metadata_Compound": [f"c{row // 2}" for row in range(8)],
            "Metadata_MoA": ["a"] * 4 + ["b"] * 2 + [""] * 2,
            "Metadata_control_type": "trt",
        }
    ).join(pd.DataFrame(x, columns=[f"MCNN_{k:03d}" for k in range(1, 5)]))
    found = consistency(treatments)
    assert found.index.tolist() == ["a"]  # b has one compound
    assert found.loc["a", "wells"] == 4
    assert found.loc["a", "mean_average_precision"] < 1


def test_equals_the_reference_implementation():
    """The means of copairs 0.5.5 on the same wells, and its p-values, up to its random draws."""
    table = wells(n_treatments=8, replicates=3, controls=12, effect=1.0).assign(Metadata_Plate="P")
    means = [3 / 4, 17 / 30, 95 / 168, 481 / 840, 0.31675824175824174]
    means += [0.33425925925925926, 0.40410052910052907, 0.3418109668109668]
    found = activity(table)
    np.testing.assert_allclose(found["mean_average_precision"], means, rtol=0, atol=1e-12)
    p_values = [0.0228, 0.1555, 0.1555, 0.1444, 0.3165, 0.2677, 0.1984, 0.2556]
    np.testing.assert_allclose(found["p_value"], p_values, atol=0.02)
