"""Controls of KiMorph.

The hold-out by brute force, its variants and interval; clusters of siRNAs; grades of gene groups;
the real plate 1.
"""

import numpy as np
import pandas as pd
import pytest

from mcnn_book.interactive import matrix
from mcnn_book.results import control_grades, permuted
from mcnn_book.sheets import far_clusters, replicate_sheet
from mcnn_book.simulate import truth
from mcnn_core.analysis import sirna
from mcnn_core.analysis.clusters import cut_tree, tree
from mcnn_core.analysis.enrichment import count_enriched, enrich_clusters, universe
from mcnn_core.analysis.mechanisms import wilson
from mcnn_core.analysis.methods import method_profiles
from mcnn_core.analysis.sirna import (
    VARIANTS,
    accuracy,
    compare_controls,
    control_fields,
    control_order,
    hold_out,
    sirna_clusters,
    sirna_profiles,
    sirna_summary,
)
from mcnn_core.errors import InputError
from mcnn_core.readers.phenodist import read_plate
from mcnn_core.screen import Screen

NAMES = ("ubc", "rluc")


def wells(positions: int = 6, spread: float = 0.4, seed: int = 0) -> pd.DataFrame:
    """Return well profiles: every position twice, two controls in turn, a direction per control."""
    rng, rows = np.random.default_rng(seed), []
    for replicate in (1, 2):
        for place in range(positions):
            name = NAMES[place % 2]
            rows.append(
                {
                    "Metadata_Plate": f"R{replicate}",
                    "Metadata_Well": f"A{place + 1:02d}",
                    "Metadata_Replicate": replicate,
                    "Metadata_Content": name,
                    "Metadata_Position": f"1 A{place + 1:02d}",
                    "Metadata_Treatment": name.upper(),
                    "Metadata_Entrez": "",
                    "Metadata_control_type": "negcon" if name == "rluc" else "poscon",
                }
            )
    centres = np.array([np.eye(3)[place % 2] for _ in (1, 2) for place in range(positions)])
    return pd.concat(
        [
            pd.DataFrame(rows),
            pd.DataFrame(
                centres + spread * rng.normal(size=centres.shape), columns=["PC_1", "PC_2", "PC_3"]
            ),
        ],
        axis=1,
    )


# ---------------------------------------------------------------------------- hold-out


@pytest.mark.parametrize("apart", VARIANTS.values())
def test_hold_out_by_brute_force(apart):
    table = wells(10, 1.0)
    found = hold_out(table, apart=apart, repeats=20)
    x = table[["PC_1", "PC_2", "PC_3"]].to_numpy()
    assert len(found) == 20 * 2 and (found.groupby("repeat")["well"].nunique() == 2).all()
    wrong = 0
    for _, part in found.groupby("repeat"):
        for row in part.itertuples():
            known = [
                i
                for i in range(20)
                if i not in set(part["well"])
                and not (apart and table.loc[i, apart] == table.loc[row.well, apart])
            ]
            cosines = [
                x[i] @ x[row.well] / np.linalg.norm(x[i]) / np.linalg.norm(x[row.well])
                for i in known
            ]
            assert (
                row.predicted == table.loc[known[int(np.argmax(cosines))], "Metadata_Content"]
                and row.MoA == table.loc[row.well, "Metadata_Content"]
            )
            wrong += row.predicted != row.MoA
    assert 0 < wrong < 40


def test_the_other_replicate_is_left_out():
    """Positions that look like nothing but themselves.

    Right with their twin, and with the other variant only by the next-best position.
    """
    table = wells(6)
    directions = np.repeat(np.eye(3)[None], 2, axis=0)
    values = (
        np.concatenate([directions[:, place // 2] * [1, 1, 1] for place in range(6)])
        .reshape(6, 2, 3)
        .transpose(1, 0, 2)
        .reshape(12, 3)
    )
    table[["PC_1", "PC_2", "PC_3"]] = (
        values + 1e-3 * np.random.default_rng(0).normal(size=(6, 3))[np.tile(range(6), 2)]
    )
    # Not where both twins are asked.
    assert (
        hold_out(table, repeats=30)["predicted"].eq(hold_out(table, repeats=30)["MoA"]).mean()
        > 0.75
    )
    # 0 and 1 share a direction and have different controls, so that without its twin a well finds
    # the wrong one
    assert (
        not hold_out(table, apart="Metadata_Position", repeats=30, share=0.9)
        .eval("predicted == MoA")
        .any()
    )


def test_a_well_without_an_admissible_neighbour_is_an_error():
    with pytest.raises(InputError, match="no neighbour that differs in Metadata_Position"):
        hold_out(wells().assign(Metadata_Position="1 A01"), apart="Metadata_Position")


def test_accuracy_counts_questions_and_draws_wells():
    asked = pd.DataFrame(
        {
            "well": [0, 0, 0, 1, 2, 2, 3],
            "MoA": "a",
            "predicted": ["a", "a", "a", "a", "b", "b", "b"],
        }
    )
    found = accuracy(asked)
    assert (
        found["accuracy"] == 4 / 7
        and found == accuracy(asked)
        and 0 <= found["low"] < 4 / 7 < found["high"] <= 1
    )
    # the same answers of many more wells: a narrower interval; the same wells asked more often: the
    # same interval
    many = pd.concat([asked.assign(well=asked["well"] + 4 * block) for block in range(25)])
    narrow = accuracy(many)
    assert narrow["high"] - narrow["low"] < 0.5 * (found["high"] - found["low"])
    often = accuracy(pd.concat([asked] * 10))
    assert (often["low"], often["high"]) == pytest.approx((found["low"], found["high"]))
    right, wrong = accuracy(asked.assign(predicted="a")), accuracy(asked.assign(predicted="b"))
    assert (right["low"], right["high"]) == wilson(4, 4) and (
        wrong["low"],
        wrong["high"],
    ) == wilson(0, 4)


def test_control_fields():
    table = pd.DataFrame({"Metadata_Content": ["UBC", "sample", "rluc", "ubc"]})
    assert control_fields(table, NAMES).tolist() == [True, False, True, True]
    with pytest.raises(InputError) as raised:
        control_fields(table, ["ubc", "clspn", "trappc3"])
    assert "rluc, sample, ubc" in str(raised.value) and raised.value.problems == [
        "got 'clspn'",
        "got 'trappc3'",
    ]


def test_control_order():
    extra = wells().iloc[:1].assign(Metadata_Content="sample")
    table = control_order(
        pd.concat([wells(), extra], ignore_index=True).sample(frac=1, random_state=1),
        ["rluc", "ubc"],
    )
    assert table["Metadata_Content"].tolist() == ["rluc"] * 6 + ["ubc"] * 6 and "place" not in table
    assert table["Metadata_Well"].tolist() == [
        "A02",
        "A02",
        "A04",
        "A04",
        "A06",
        "A06",
        "A01",
        "A01",
        "A03",
        "A03",
        "A05",
        "A05",
    ]
    assert table["Metadata_Replicate"].tolist() == [1, 2] * 6


def test_methods_are_compared_in_both_variants_and_normalisations():
    """Fields are drawn around the wells; a method without information is worse."""
    rng, table = np.random.default_rng(3), wells(10, 0.1)
    fields = pd.concat([table] * 3, ignore_index=True).assign(
        Metadata_Site=np.repeat([1, 2, 3], 20), Metadata_Training=True
    )
    noise = fields.copy()
    fields[["PC_1", "PC_2", "PC_3"]] += 0.05 * rng.normal(size=(60, 3))
    noise[["PC_1", "PC_2", "PC_3"]] = rng.normal(size=(60, 3))
    frames = {"trained": fields, "untrained": noise, "handcrafted": noise}
    comparison = compare_controls(method_profiles(frames, ["none", "whiten"]))
    assert comparison["method"].tolist() == [
        name
        for method in ("trained", "untrained", "handcrafted")
        for name in (method, method, method + ", whitened", method + ", whitened")
    ]
    found = control_grades(comparison)
    assert (
        found["random.trained"] == found["apart.trained"] == 1
        and found["random.untrained"] < 0.9
        and "apart.handcrafted_whitened.low" in found
    )
    assert found["random.lead"] == pytest.approx(
        1 - max(found["random.handcrafted"], found["random.handcrafted_whitened"])
    )


# ------------------------------------------------------------------------------ siRNAs


@pytest.fixture
def sirnas():
    """Two controls, two siRNAs like each, three alike and like none, one alone."""
    spec = [
        ("RLUC", "rluc", (1, 0, 0, 0)),
        ("UBC", "ubc", (0, 1, 0, 0)),
        ("<script>alert(1)</script>", "sample", (1, 0.1, 0, 0)),
        ("N2", "sample", (1, 0, 0.1, 0)),
        ("U1", "sample", (0.1, 1, 0, 0)),
        ("U2", "sample", (0, 1, 0.1, 0)),
        ("F1", "sample", (0, 0.05, 1, 0)),
        ("F2", "sample", (0.05, 0, 1, 0)),
        ("F3", "sample", (0, 0, 1, 0.1)),
        ("ALONE", "sample", (-0.3, -0.3, 0, 1)),
    ]
    rows = [
        {
            "Metadata_Treatment": name,
            "Metadata_Content": content,
            "Metadata_Entrez": "" if content != "sample" else str(number),
            "Metadata_Replicate": replicate,
            "PC_1": x[0] * replicate,
            "PC_2": x[1] * replicate,
            "PC_3": x[2] * replicate,
            "PC_4": x[3] * replicate,
        }
        for replicate in (1, 2)
        for number, (name, content, x) in enumerate(spec)
    ]
    return sirna_profiles(pd.DataFrame(rows))


def test_clusters_of_hand_made_profiles(sirnas):
    assert len(sirnas) == 10 and sirnas.set_index("Metadata_Treatment").loc["RLUC", "PC_1"] == 1.5
    table, distances = sirna_clusters(sirnas, NAMES)
    members = {frozenset(part["treatment"]): part for _, part in table.groupby("cluster")}
    assert set(members) == {
        frozenset(["RLUC", "<script>alert(1)</script>", "N2"]),
        frozenset(["UBC", "U1", "U2"]),
        frozenset(["F1", "F2", "F3"]),
        frozenset(["ALONE"]),
    }
    facts = table.set_index("treatment")
    assert facts.loc[["N2", "U1", "F1", "ALONE"], "holds"].tolist() == ["rluc", "ubc", "", ""]
    # rows of table and matrix agree, and the index leads back to the profiles
    assert (
        sirnas.loc[table.index, "Metadata_Treatment"].to_numpy() == table["treatment"].to_numpy()
    ).all()
    place = {name: i for i, name in enumerate(table["treatment"])}
    assert (
        distances[place["RLUC"], place["UBC"]] == pytest.approx(1)
        and distances[place["F1"], place["F2"]] < 0.01
    )
    group = [place[name] for name in ("F1", "F2", "F3")]
    assert facts.loc["F1", "far"] == pytest.approx(
        min(distances[group, place[name]].mean() for name in ("RLUC", "UBC"))
    )
    assert (
        sirna_summary(table)["siRNAs"].tolist() == [3, 3, 3, 1]
        and sirna_summary(table)["holds"].iloc[-1] == ""
    )


def test_far_and_near_clusters(sirnas):
    table, _ = sirna_clusters(sirnas, NAMES)
    far, near = far_clusters(table, NAMES), far_clusters(table, NAMES, nearest=True)
    assert far[0] == "ALONE" and len(far) == 2 and far[1] in ("F1", "F2", "F3")
    assert len(near) == 2 and {name[:1] for name in near} <= {"<", "N", "U"}
    assert far_clusters(table, NAMES, most=1) == ["ALONE"]


def test_names_are_shown_and_never_run(sirnas):
    table, distances = sirna_clusters(sirnas, NAMES)
    names = table.rename(columns={"treatment": "name"}).assign(Metadata_MoA=table["content"])
    page = matrix(
        distances, names, [np.zeros((4, 4, 3), np.uint8)] * 10, "<script>alert(2)</script>"
    )
    text = page._repr_html_()
    assert "<script>alert" not in text and "alert(1)" in text


def test_sheets_hold_the_replicates_below_each_other():
    table = pd.DataFrame(
        [(name, replicate) for replicate in (2, 1) for name in ("A", "B", "C") for _ in range(2)],
        columns=["Metadata_Treatment", "Metadata_Replicate"],
    )
    rows, titles = replicate_sheet(table, ["B", "A"])
    assert titles == [
        "B, replicate 1",
        "A, replicate 1",
        "B, replicate 2",
        "A, replicate 2",
    ] and rows == [8, 6, 2, 0]
    assert replicate_sheet(table, ["A", "B", "C"], most=1)[1] == [
        "A, replicate 1",
        "A, replicate 2",
    ]
    # a siRNA whose second replicate failed keeps its first
    assert replicate_sheet(
        table[(table["Metadata_Treatment"] != "A") | (table["Metadata_Replicate"] == 1)], ["A", "B"]
    )[1] == ["A, replicate 1", "B, replicate 1", "B, replicate 2"]


# ------------------------------------------------------------------------ gene groups

TRUTH = pd.DataFrame(
    [
        ("a1", "one", "x", "T"),
        ("a2", "one", "x", "T"),
        ("a3", "one", "x", "T"),
        ("b1", "two", "y", ""),
        ("b2", "two", "y", ""),
        ("n1", "inactive", "neutral", ""),
        ("n2", "inactive", "neutral", ""),
        ("UBC", "", "x", ""),
    ],
    columns=["compound", "group", "phenotype", "term"],
)
CLUSTERS = pd.DataFrame({"treatment": TRUTH["compound"], "cluster": [1, 1, 2, 2, 3, 3, 3, 1]})
ENRICHED = pd.DataFrame(
    [(1, "T, part A", "elim", 0.04), (2, "T", "elim", 0.06), (1, "U", "classic", 0.0)],
    columns=["cluster", "name", "algorithm", "q"],
)


def test_best_clusters_by_hand():
    clusters = CLUSTERS[:7].set_index("treatment")["cluster"]
    found = truth.best_clusters(TRUTH[:5].set_index("compound")["group"], clusters)
    assert found.loc["one"].tolist() == [3, 1, 2, 2 / 3] and found.loc["two"].tolist() == [
        2,
        2,
        2,
        1 / 3,
    ]


def test_groups_by_hand():
    """Controls count for no cluster; true effects separate group one and scatter group two."""
    effects = pd.DataFrame(
        [
            ("a1", 2, 0, 0),
            ("a2", 3, 0, 0),
            ("a3", 4, 0.1, 0),
            ("b1", 0, 1, 0),
            ("b2", 0, 0, -1),
            ("n1", 0, 0, 0.1),
            ("n2", 0, 0, -0.1),
            ("UBC", 2, 0, 0),
        ],
        columns=["compound", "p", "q", "r"],
    ).assign(s=7.0)
    found = truth.grade_groups(CLUSTERS, ENRICHED, TRUTH, effects)
    assert (
        found["jaccard"].tolist() == [2 / 3, 1 / 3]
        and found["recovered"].tolist() == [True, False]
        and found["term"].tolist() == ["found", ""]
    )
    assert found["possible"].tolist() == pytest.approx([1, 1 / 2])
    known = truth.group_grades(found, CLUSTERS, TRUTH)
    assert {key: known[key] for key in list(known)[:6]} == {
        "groups": 2,
        "recovered": 1,
        "possible": 1,
        "possible_recovered": 1,
        "terms_planted": 1,
        "terms_found": 1,
    }
    assert -1 <= known["rand"] <= 1
    blind = truth.grade_groups(CLUSTERS, ENRICHED[1:], TRUTH)
    assert blind["possible"].isna().all() and blind["term"].tolist() == ["missed", ""]
    assert truth.group_grades(blind, CLUSTERS, TRUTH)["possible"] == "not available"


def test_without_truth_groups_are_not_graded(tmp_path):
    table = truth.grade_groups(CLUSTERS, ENRICHED, None)
    assert table.empty and list(table) == [
        "genes",
        "cluster",
        "size",
        "jaccard",
        "recovered",
        "possible",
        "term",
    ]
    assert set(truth.group_grades(table, CLUSTERS, None).values()) == {"not available"}
    TRUTH.to_csv(tmp_path / "truth.csv", index=False)
    pd.DataFrame({"compound": ["a"], "p": [1.0]}).to_csv(tmp_path / "effects.csv", index=False)
    drawn, real = (
        Screen("s", pd.DataFrame(), ("DNA",), tmp_path, simulated) for simulated in (True, False)
    )
    pd.testing.assert_frame_equal(truth.read_truth(drawn, "group"), TRUTH)
    assert truth.read_truth(drawn) is None and truth.read_truth(real, "group") is None
    assert truth.read_effects(drawn)["p"].tolist() == [1.0] and truth.read_effects(real) is None


def test_perfect_clusters_have_a_rand_index_of_one():
    perfect = CLUSTERS.assign(cluster=[1, 1, 1, 2, 2, 3, 3, 9])
    found = truth.grade_groups(perfect, ENRICHED, TRUTH)
    assert found["jaccard"].eq(1).all() and truth.group_grades(found, perfect, TRUTH)["rand"] == 1


# ------------------------------------------------------------------------ real plate 1


def plate_files(folder, matrix, names=None):
    names = names or [
        f"001-{replicate}-{well}" for replicate in ("01", "02") for well in ("A03", "A04", "A05")
    ]
    pd.DataFrame(matrix, names, names).to_csv(folder / "d.csv")
    (folder / "a.csv").write_text(
        '"","plate","well","controlStatus","GeneID","LocusID"\n"1",1,"A03","ubc","UBC",NA\n'
        '"2",1,"A04","sample","ABL1","25"\n'
        '"3",1,"A05","sample","AKT1","207"\n"4",2,"A05","sample","CDK1","983"\n'
    )
    return folder / "d.csv", folder / "a.csv"


def test_distances_of_a_plate_by_hand(tmp_path):
    values = np.full((6, 6), 0.5)
    values[:3, 1], values[4, 0], values[5, 5] = 0.9, 1.0, np.nan
    table, found = read_plate(*plate_files(tmp_path, values))
    assert table.to_numpy().tolist() == [
        ["A03", "ubc", "UBC", ""],
        ["A04", "sample", "ABL1", "25"],
        ["A05", "sample", "AKT1", "207"],
    ]
    # eight numbers lie between A03 and A04: one 0.9, one 1.0, six 0.5
    assert (
        found[0, 1] == found[1, 0] == pytest.approx(2 * (0.9 + 1.0 + 6 * 0.5) / 8 - 1)
        and found[0, 0] == found[0, 2] == 0
    )
    assert list(table) == ["well", "content", "treatment", "entrez"]


@pytest.mark.parametrize("value", [np.nan, 1.5, -0.1])
def test_a_plate_needs_its_numbers(tmp_path, value):
    values = np.full((6, 6), 0.5)
    values[0, 4] = value
    with pytest.raises(InputError, match="numbers from 0 to 1"):
        read_plate(*plate_files(tmp_path, values))


def test_a_plate_needs_its_names(tmp_path):
    with pytest.raises(InputError, match="plate-replicate-well"):
        read_plate(*plate_files(tmp_path, np.full((2, 2), 0.5), ["001-01-A03", "002-01-A04"]))
    with pytest.raises(InputError) as raised:
        read_plate(*plate_files(tmp_path, np.full((2, 2), 0.5), ["001-01-A03", "001-01-P24"]))
    assert raised.value.problems == ["well P24"]


def test_the_real_plate_goes_through_clusters_and_ontology(shared_data, gene_ontology):
    """Replicates averaged: a gene must count once in a cluster.

    The 704 wells by themselves go through the tree too.
    """
    folder = shared_data / "kimorph"
    raw = pd.read_csv(folder / "svmAccPDM_Pl1.csv.gz", index_col=0).to_numpy()
    np.fill_diagonal(raw, 0.5)
    single = cut_tree(tree(np.clip(raw + raw.T - 1, 0, 1)))
    assert len(single) == 704 and sorted(single["position"]) == list(range(704))

    table, distances = read_plate(
        folder / "svmAccPDM_Pl1.csv.gz", folder / "kimorph_featureData.csv"
    )
    assert distances.shape == (352, 352) and (distances == distances.T).all()
    clusters = table.join(cut_tree(tree(distances)))
    sirnas = clusters[clusters["entrez"] != ""]
    assert (
        len(sirnas) == sirnas["entrez"].nunique() == 320
        and clusters["content"].value_counts().drop("sample").eq(4).all()
    )
    homes = clusters[clusters["entrez"] == ""].groupby("content")["cluster"].agg(set)
    assert (
        len(homes["ubc"]) == len(homes["kif11"]) == 1
        and not homes["ubc"] & homes["rluc"]
        and not homes["ubc"] & homes["trappc3"]
    )

    space = universe(gene_ontology, sirnas.set_index("treatment")["entrez"])
    assert len(space.genes) == 317 and space.unmapped.to_dict() == {
        "FLJ35107": "348825",
        "CDC2L2": "985",
        "EIF2AK4": "27104",
    }
    members = sirnas.set_index("entrez")["cluster"]
    enriched = enrich_clusters(space, members, ["classic", "elim"])
    counts = count_enriched(enriched, members)
    assert (counts["clusters"] == members.nunique()).all() and enriched["p"].between(0, 1).all()
    # a sanity check of the join: the genes of one term, called a cluster, have that term
    term = int(space.terms["annotated"].sub(20).abs().argmin())
    genes = pd.Series("rest", space.genes)
    genes[space.genes[space.members[[term]].indices]] = "term"
    best = enrich_clusters(space, genes, ["classic"]).query("cluster == 'term'").iloc[0]
    assert best["q"] < 1e-10


def test_permuted_clusters_are_counted_over_all_repeats(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "mcnn_book.results.enrich_clusters",
        lambda space, clusters, algorithms: seen.append(clusters) or clusters,
    )
    monkeypatch.setattr(
        "mcnn_book.results.count_enriched",
        lambda table, clusters, fdr: pd.DataFrame(
            {"clusters": 3, "any": len(seen) % 2, "multi_gene": 1}, index=["elim"]
        ),
    )
    clusters = pd.Series([1, 1, 2, 3, 3, 3], list("abcdef"))
    found = permuted(None, clusters, repeats=10).loc["elim"]
    assert found.tolist() == pytest.approx([30, 5, 1 / 6, 0.05 + 2 * np.sqrt(0.05 * 0.95 / 30)])
    assert (
        all(sorted(one) == [1, 1, 2, 3, 3, 3] and list(one.index) == list("abcdef") for one in seen)
        and len({tuple(one) for one in seen}) > 3
    )
    assert sirna.REPEATS == 50 and sirna.SHARE == 0.9
