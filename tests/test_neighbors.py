import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, pairwise_distances, silhouette_samples
from sklearn.neighbors import NearestNeighbors

from mcnn_book.results import subgroups
from mcnn_book.study.study import discover
from mcnn_core.analysis import mechanisms as mechanisms_module
from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.analysis.novelty import activity
from mcnn_core.analysis.response import NO_FIT
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_columns, treatment_profiles

COLUMNS = ["Metadata_Compound", "Metadata_Concentration", "Metadata_MoA", "Metadata_Batch"]


def profiles(rows, values):
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["Metadata_Treatment"] = [
        f"{c} | {d:g}"
        for c, d in zip(frame.Metadata_Compound, frame.Metadata_Concentration, strict=True)
    ]
    frame["Metadata_control_type"] = "trt"
    return pd.concat(
        [
            frame,
            pd.DataFrame(
                values, columns=[f"MCNN_{i:03d}" for i in range(1, np.shape(values)[1] + 1)]
            ),
        ],
        axis=1,
    )


@pytest.fixture
def random_profiles():
    generator = np.random.default_rng(11)
    rows = []
    for compound in range(20):
        for dose in range(generator.integers(1, 4)):
            rows.append(
                (
                    f"c{compound:02d}",
                    float(dose),
                    f"m{compound % 6}",
                    f"Week{generator.integers(1, 4)}",
                )
            )
    return profiles(rows, generator.normal(size=(len(rows), 5)))


def independent(frame, protocol):
    """Predict with scikit-learn, one query at a time, masking candidates explicitly."""
    found = {}
    for _, query in frame.iterrows():
        allowed = frame[frame.Metadata_Compound != query.Metadata_Compound]
        if protocol == "NSCB":
            allowed = allowed[allowed.Metadata_Batch != query.Metadata_Batch]
        if query.Metadata_MoA not in set(allowed.Metadata_MoA):
            continue
        columns = feature_columns(frame)
        search = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(
            allowed[columns].to_numpy(float)
        )
        distance, index = search.kneighbors(query[columns].to_numpy(float)[None])
        found[query.Metadata_Treatment] = (
            allowed.iloc[index[0, 0]].Metadata_Treatment,
            distance[0, 0],
        )
    return found


@pytest.mark.parametrize("protocol", mechanisms_module.PROTOCOLS)
def test_agrees_with_scikit_learn(random_profiles, protocol):
    expected = independent(random_profiles, protocol)
    got = mechanisms_module.nearest_neighbours(
        random_profiles.sample(frac=1, random_state=1), protocol
    )
    assert list(got.columns) == [
        "compound",
        "concentration",
        "MoA",
        "predicted",
        "neighbour",
        "distance",
        "protocol",
    ]
    assert (
        len(got) == len(expected) == mechanisms_module.answerable(random_profiles, protocol).sum()
    )
    for row in got.itertuples():
        neighbour, distance = expected[f"{row.compound} | {row.concentration:g}"]
        assert row.neighbour == neighbour and row.distance == pytest.approx(distance, abs=1e-12)
    table = mechanisms_module.confusion(got)
    np.testing.assert_array_equal(
        table, confusion_matrix(got.MoA, got.predicted, labels=list(table.columns))
    )


def test_queries_without_an_answer_are_left_out_but_stay_neighbours():
    frame = profiles(
        [
            ("a", 1.0, "x", "W1"),
            ("b", 1.0, "x", "W1"),
            ("c", 1.0, "y", "W2"),
            ("d", 1.0, "x", "W2"),
        ],
        [[1, 0.1], [1, 0.25], [1, 0.0], [0, 1]],
    )
    nsc = mechanisms_module.nearest_neighbours(frame)
    assert nsc.compound.tolist() == ["a", "b", "d"] and nsc.neighbour.tolist() == [
        "c | 1",
        "a | 1",
        "b | 1",
    ]
    assert mechanisms_module.answerable(frame, "NSC").to_dict() == {
        "a | 1": True,
        "b | 1": True,
        "c | 1": False,
        "d | 1": True,
    }
    assert mechanisms_module.confusion(nsc, ["x", "y", "z"]).to_numpy().tolist() == [
        [2, 1, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]
    assert mechanisms_module.scores(nsc)["overall"] == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="no answerable query"):
        mechanisms_module.scores(mechanisms_module.nearest_neighbours(frame.iloc[[0, 2]]))


def test_ties_go_to_the_first_name_whatever_the_row_order():
    frame = profiles(
        [("q", 1.0, "x", "W"), ("b", 1.0, "x", "W"), ("a", 1.0, "y", "W")],
        [[3.0, 1], [6, 2], [0.3, 0.1]],
    )
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        got = mechanisms_module.nearest_neighbours(frame.iloc[order]).set_index("compound")
        assert got.neighbour.to_dict() == {"b": "a | 1", "q": "a | 1"}


def test_several_batches_controls_and_unannotated():
    frame = profiles(
        [
            ("a", 1.0, "x", "W1;W2"),
            ("b", 1.0, "x", "W2"),
            ("c", 1.0, "x", "W3"),
            ("u", 1.0, "", "W4"),
        ],
        np.eye(4) + 0.1,
    )
    control = frame.iloc[:1].assign(
        Metadata_Treatment="DMSO", Metadata_control_type="negcon", Metadata_MoA="DMSO"
    )
    got = mechanisms_module.nearest_neighbours(pd.concat([frame, control]), "NSCB")
    assert got.set_index("compound").neighbour.to_dict() == {
        "a": "c | 1",
        "b": "c | 1",
        "c": "a | 1",
    }
    with pytest.raises(InputError, match="NSCB needs Metadata_Batch"):
        mechanisms_module.nearest_neighbours(frame.drop(columns="Metadata_Batch"), "NSCB")
    with pytest.raises(InputError) as error:
        mechanisms_module.nearest_neighbours(
            frame.assign(Metadata_Batch=["", "W1", "", ""]), "NSCB"
        )
    assert error.value.problems == ["a | 1", "c | 1"]
    assert "batch_only" not in mechanisms_module.floors(frame.drop(columns="Metadata_Batch"))
    with pytest.raises(InputError, match="NSC, NSCB"):
        mechanisms_module.nearest_neighbours(frame, "LOCO")
    with pytest.raises(InputError, match="one profile each"):
        mechanisms_module.annotated(pd.concat([frame, frame]))


def test_wilson_interval_and_scores():
    # Newcombe 1998, Table I: 81 of 263 gives 0.2553 to 0.3662
    assert mechanisms_module.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (
        mechanisms_module.wilson(0, 20)[0] == 0
        and mechanisms_module.wilson(20, 20)[1] == 1
        and mechanisms_module.wilson(0, 0) == (0, 1)
    )
    answers = pd.DataFrame({"MoA": list("aaaabbc"), "predicted": list("aaabbbz")})
    assert mechanisms_module.scores(answers) | {"low": 0, "high": 0} == {
        "overall": 5 / 7,
        "class_median": 0.75,
        "n": 7,
        "low": 0,
        "high": 0,
    }


def test_average_precision_by_hand():
    """The query "a 1" meets one of its own mechanism, and others that are wrong or do not count.

    In order: one of its own mechanism, a wrong one, its own compound (which does not count), one of
    its own, a wrong one.
    """
    angles = {
        ("a", 1.0): 0.0,
        ("b", 1.0): 0.1,
        ("x", 1.0): 0.2,
        ("a", 2.0): 0.25,
        ("c", 1.0): 0.3,
        ("y", 1.0): 1.0,
    }
    rows = [
        (compound, dose, "M" if compound in "abc" else "N", "Week1") for compound, dose in angles
    ]
    frame = profiles(rows, [[np.cos(angle), np.sin(angle)] for angle in angles.values()])
    found = mechanisms_module.average_precisions(frame)
    assert found["a | 1"] == pytest.approx((1 + 2 / 3) / 2) and found["x | 1"] == pytest.approx(
        1 / 5
    )
    assert [name.split(" | ")[0] for name in found.index] == mechanisms_module.nearest_neighbours(
        frame
    )["compound"].tolist()


@pytest.mark.parametrize("protocol", ["NSC", "NSCB"])
def test_average_precision_agrees_with_loops(random_profiles, protocol):
    found, columns = (
        mechanisms_module.average_precisions(random_profiles, protocol),
        feature_columns(random_profiles),
    )
    for _, query in random_profiles.iterrows():
        allowed = random_profiles[
            random_profiles["Metadata_Compound"] != query["Metadata_Compound"]
        ]
        if protocol == "NSCB":
            allowed = allowed[allowed["Metadata_Batch"] != query["Metadata_Batch"]]
        far = pairwise_distances(
            query[columns].to_numpy(float)[None], allowed[columns].to_numpy(float), metric="cosine"
        )[0]
        ranks = (
            np.flatnonzero(
                (allowed["Metadata_MoA"] == query["Metadata_MoA"]).to_numpy()[np.argsort(far)]
            )
            + 1
        )
        assert (query["Metadata_Treatment"] in found.index) == (len(ranks) > 0)
        if len(ranks):
            assert found[query["Metadata_Treatment"]] == pytest.approx(
                np.mean(np.arange(1, len(ranks) + 1) / ranks)
            )


def test_floors_agree_with_simulation(random_profiles):
    generator = np.random.default_rng(2)
    rows = mechanisms_module.annotated(random_profiles)
    for protocol in mechanisms_module.PROTOCOLS:
        asked = mechanisms_module.answerable(random_profiles, protocol).to_numpy()
        right = []
        for query in rows[asked].itertuples():
            allowed = rows[rows.Metadata_Compound != query.Metadata_Compound]
            if protocol == "NSCB":
                allowed = allowed[allowed.Metadata_Batch != query.Metadata_Batch]
            right.append(
                (generator.choice(allowed.Metadata_MoA, 2000) == query.Metadata_MoA).mean()
            )
        assert mechanisms_module.floors(random_profiles, protocol).chance.mean() == pytest.approx(
            np.mean(right), abs=0.01
        )


def test_subgroups_find_compounds_within_a_mechanism():
    generator = np.random.default_rng(4)
    rows = [
        (c, float(d), m, "W")
        for c, m in (("a", "split"), ("b", "split"), ("c", "mixed"), ("d", "mixed"), ("e", "alone"))
        for d in range(4)
    ]
    centres = {"a": [1, 0, 0], "b": [0, 1, 0]}
    values = np.array([centres.get(row[0], [1, 1, 1]) for row in rows]) + generator.normal(
        0, 0.05, (20, 3)
    )
    table = subgroups(profiles(rows, values))
    assert table.loc["split", "silhouette"] > 0.8 > 0.3 > table.loc["mixed", "silhouette"]
    assert table.loc["split", "between"] > 10 * table.loc["split", "within"]
    assert (
        table.loc["alone", ["between", "silhouette"]].isna().all()
        and table.loc["alone", "compounds"] == 1
    )
    inside = (
        cosine_distances(values[:4])[np.triu_indices(4, 1)],
        cosine_distances(values[4:8])[np.triu_indices(4, 1)],
    )
    assert table.loc["split", "within"] == pytest.approx(np.median(np.concatenate(inside)))


def silhouettes(frame):
    """Judge one treatment at a time; those of its own compound are never looked at."""
    found, values = {}, frame[feature_columns(frame)].to_numpy(float)
    for place, one in enumerate(frame[[*COLUMNS, "Metadata_Treatment"]].itertuples()):
        others = (frame.Metadata_Compound != one.Metadata_Compound).to_numpy()
        distances = pairwise_distances(values[[place]], values[others], metric="cosine")[0]
        means = pd.Series(distances).groupby(frame.Metadata_MoA[others].to_numpy()).mean()
        if one.Metadata_MoA in means and len(means) > 1:
            own, rest = means[one.Metadata_MoA], means.drop(one.Metadata_MoA)
            found[one.Metadata_Treatment] = (
                rest.idxmin(),
                own,
                rest.min(),
                (rest.min() - own) / max(own, rest.min()),
            )
    return found


def test_suspects_agree_with_loops(random_profiles):
    """A compound with two mechanisms and a mechanism of one compound included."""
    frame = random_profiles.copy()
    frame.loc[0, "Metadata_MoA"] = "m3"
    frame.loc[frame.Metadata_Compound == "c07", "Metadata_MoA"] = "alone"
    expected = silhouettes(frame)
    assert set(frame.Metadata_Treatment) - set(expected) == set(
        frame.Metadata_Treatment[frame.Metadata_MoA == "alone"]
    )
    got = mechanisms_module.suspects(frame.sample(frac=1, random_state=3))
    assert (
        got.columns.tolist() == mechanisms_module.SUSPECT_COLUMNS
        and got.silhouette.is_monotonic_increasing
    )
    assert got.treatment.tolist() == sorted(expected, key=lambda name: expected[name][-1])
    for row in got.itertuples():
        nearest, *numbers = expected[row.treatment]
        assert row.nearest_other == nearest and [
            row.own,
            row.other,
            row.silhouette,
        ] == pytest.approx(numbers)


def test_suspects_of_single_doses_are_scikit_learns_silhouettes(random_profiles):
    single = random_profiles.drop_duplicates("Metadata_Compound")
    got = mechanisms_module.suspects(single).set_index("compound")
    expected = silhouette_samples(
        single[feature_columns(single)].to_numpy(), single.Metadata_MoA.to_numpy(), metric="cosine"
    )
    np.testing.assert_allclose(got.loc[single.Metadata_Compound, "silhouette"], expected)


def test_a_planted_wrong_label_is_the_first_suspect():
    """At all its doses, which vouch for each other and are not asked."""
    generator = np.random.default_rng(6)
    rows = [(f"{m}{c}", float(d), m, "W") for m in "xyz" for c in range(4) for d in range(3)]
    values = np.repeat(np.eye(5)[:3], 12, axis=0) + generator.normal(0, 0.1, (36, 5))
    values[[3, 4, 5]] += np.eye(5)[2] - np.eye(5)[0]
    controls = profiles([("DMSO", 0.0, "", "W")], values[:1]).assign(Metadata_control_type="negcon")
    got = mechanisms_module.suspects(
        pd.concat([profiles(rows, values), controls], ignore_index=True)
    )
    assert set(got.compound[:3]) == {"x1"} and set(got.nearest_other[:3]) == {"z"}
    assert (got.silhouette[:3] < -0.5).all() and (got.silhouette[3:] > 0.3).all() and len(got) == 36


def test_nothing_to_suspect():
    one = profiles([("a", 1.0, "x", "W"), ("b", 1.0, "x", "W")], np.eye(2) + 0.1)
    assert (
        mechanisms_module.suspects(one).empty
        and mechanisms_module.suspects(one).columns.tolist() == mechanisms_module.SUSPECT_COLUMNS
    )
    assert mechanisms_module.suspects(one.assign(Metadata_MoA="")).empty


@pytest.fixture(scope="module")
def ljosa(shared_data):
    """Well profiles of the real BBBC021 (Ljosa 2013), with the metadata of the real screen."""
    folder = shared_data / "bbbc021"
    wells = pd.read_csv(folder / "profiles" / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz")
    wells = wells.rename(
        columns={"Image_Metadata_Plate": "Metadata_Plate", "Image_Metadata_Well": "Metadata_Well"}
    )
    images = pd.read_csv(folder / "metadata" / "BBBC021_v1_image.csv.gz").drop_duplicates(
        ["Image_Metadata_Plate_DAPI", "Image_Metadata_Well_DAPI"]
    )
    layout = pd.DataFrame(
        {
            "Metadata_Plate": images.Image_Metadata_Plate_DAPI,
            "Metadata_Well": images.Image_Metadata_Well_DAPI,
            "Metadata_Compound": images.Image_Metadata_Compound,
            "Metadata_Concentration": images.Image_Metadata_Concentration.round(5),
            "Metadata_Batch": images.Image_PathName_DAPI.str.split("/").str[0],
        }
    )
    # the annotation file ends its lines with CR alone
    moa = pd.read_csv(
        folder / "metadata" / "BBBC021_v1_moa.csv", lineterminator="\r"
    ).drop_duplicates()
    moa = dict(
        zip(zip(moa.compound, moa.concentration.round(5), strict=True), moa.moa, strict=True)
    )
    layout["Metadata_MoA"] = [
        moa.get(key, "")
        for key in zip(layout.Metadata_Compound, layout.Metadata_Concentration, strict=True)
    ]
    layout["Metadata_Treatment"] = [
        "DMSO" if c == "DMSO" else f"{c} | {d:g}"
        for c, d in zip(layout.Metadata_Compound, layout.Metadata_Concentration, strict=True)
    ]
    control = layout.Metadata_Compound == "DMSO"
    layout["Metadata_control_type"] = np.where(control, "negcon", "trt")
    layout.loc[control, "Metadata_MoA"] = ""
    merged = layout.merge(wells, on=["Metadata_Plate", "Metadata_Well"])
    assert len(merged) == 632
    return merged


def test_floors_on_the_real_layout(ljosa):
    treatments = treatment_profiles(ljosa)
    nsc, nscb = mechanisms_module.floors(treatments), mechanisms_module.floors(treatments, "NSCB")
    assert (len(nsc), len(nscb), nsc.MoA.nunique()) == (103, 92, 12)
    assert round(nsc.chance.mean(), 3) == 0.060 and round(nsc.label_frequency.mean(), 3) == 0.092
    assert nsc.batch_only.mean() == pytest.approx(0.13, abs=0.01)
    assert nsc.batch_only[nsc.MoA == "Kinase inhibitors"].mean() == pytest.approx(0.39, abs=0.01)
    lost = set(nsc.MoA[~mechanisms_module.answerable(treatments, "NSCB")])
    assert {"Kinase inhibitors", "Cholesterol-lowering"} == lost


def robust(values):
    return values.median(), 1.4826 * (values - values.median()).abs().median()


def standard(values):
    return values.mean(), values.std()


def scaled(ljosa, moments):
    """Scale every feature by the moments of each plate's DMSO wells."""
    names = [
        name
        for name in feature_columns(ljosa)
        if name.split("_")[0] in ("Cells", "Nuclei", "Cytoplasm")
    ]
    # In one piece, which is faster.
    values = pd.DataFrame(ljosa[names].to_numpy(float), ljosa.index, names)
    parts = []
    for _, plate in values.groupby(ljosa.Metadata_Plate):
        middle, spread = moments(plate[ljosa.Metadata_control_type[plate.index] == "negcon"])
        parts.append((plate - middle) / spread.replace(0, np.nan))
    return ljosa.drop(columns=names).join(pd.concat(parts).dropna(axis=1))


@pytest.mark.parametrize("moments, overall", [(standard, (0.767, 0.685)), (robust, (0.748, 0.761))])
def test_real_profiles_reach_the_known_range(ljosa, moments, overall):
    """Scaled by each plate's DMSO wells, Ljosa's profiles reach what is known.

    They are known to reach 68.0-81.6 % (NSC) and 65.2-76.1 % (NSCB).
    """
    treatments = treatment_profiles(scaled(ljosa, moments))
    for protocol, n, expected in zip(mechanisms_module.PROTOCOLS, (103, 92), overall, strict=True):
        got = mechanisms_module.nearest_neighbours(treatments, protocol)
        result = mechanisms_module.scores(got)
        assert result["n"] == n and result["overall"] == pytest.approx(expected, abs=5e-4)
        independently = independent(mechanisms_module.annotated(treatments), protocol)
        assert got.neighbour.tolist() == [neighbour for neighbour, _ in independently.values()]


def test_real_profiles_go_through_every_analysis(ljosa, capsys):
    """Ljosa's wells: 302 annotated, no others treated, and 330 of DMSO.

    Annotated doses only, so most EC50s lie below them.
    """
    assert (ljosa.Metadata_MoA != "").sum() == 302 and (
        ljosa.Metadata_control_type == "negcon"
    ).sum() == 330
    wells = scaled(ljosa, robust)
    treatments = treatment_profiles(wells)
    tables = discover(wells, treatments)
    assert capsys.readouterr() == ("", "")
    annotated = mechanisms_module.annotated(treatments)
    mechanisms = sorted(set(annotated.Metadata_MoA))
    assert (len(annotated), annotated.Metadata_Compound.nunique(), len(mechanisms)) == (103, 38, 12)
    similarity = tables["similarity"]
    like = [f"like {name}" for name in (*mechanisms, "negative control")]
    assert len(similarity) == 632 and similarity.columns[-14:].tolist() == ["nearest", *like]
    assert similarity[like].notna().all(axis=None) and set(similarity.nearest) == {
        *mechanisms,
        "negative control",
    }
    assert tables["potency"].compound.tolist() == sorted(set(annotated.Metadata_Compound))
    assert (
        set(tables["potency"].status) <= {"fit", *NO_FIT.values()}
        and (tables["potency"].status == NO_FIT["low"]).sum() > 10
    )
    # One profile of DMSO per plate; nothing unannotated.
    assert len(tables["clusters"]) == 103 + 55 and tables["novel"].empty
    assert activity(wells).active.mean() > 0.8
    judged = silhouettes(annotated)
    assert (
        tables["suspects"].treatment.tolist() == sorted(judged, key=lambda name: judged[name][-1])
        and len(judged) == 103
    )
    points = tables["curves"]
    assert points.n.groupby([points.compound, points.concentration]).first().sum() == 302
