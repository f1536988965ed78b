import gzip
from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

from mcnn_core.analysis import enrichment
from mcnn_core.analysis.enrichment import (
    ALGORITHMS,
    count_enriched,
    enrich,
    enrich_clusters,
    universe,
)
from mcnn_core.errors import InputError
from mcnn_core.machine import files
from mcnn_core.readers import ontology
from mcnn_core.readers.ontology import load_go, read_associations, read_obo

TOY = """format-version: 1.2
default-namespace: biological_process

[Term]
id: T:0
name: root

[Term]
id: T:1
name: defence ! of the cell
alt_id: T:91
is_a: T:0 ! root

[Term]
id: T:2
name: signalling
is_a: T:0 {source="x"} ! root
relationship: has_part T:11

[Term]
id: T:11
relationship: part_of T:1 {source="x"} ! defence
relationship: regulates F:0 ! of another namespace

[Term]
id: T:21
name: positive
is_a: T:2
relationship: positively_regulates T:92

[Term]
id: T:9
name: gone
is_obsolete: true

[Term]
id: T:22
name: negative
alt_id: T:92
relationship: negatively_regulates T:2

[Term]
id: F:0
name: function
namespace: molecular_function

[Typedef]
id: part_of
name: part of
"""
#: gene -> its own terms
CARRIES = (
    {f"g{i}": ["T:11"] for i in range(4)}
    | {"g4": ["T:91", "T:2"], "g10": ["T:1"]}
    | {f"g{i}": ["T:21"] for i in range(5, 10)}
    | {f"g{i}": ["T:0"] for i in range(11, 20)}
    | {"g20": ["F:0"]}
)


def gaf_line(gene, term, qualifier="", taxon="taxon:9606"):
    return "\t".join(
        [
            "X",
            gene,
            f"S{gene}",
            qualifier,
            term,
            "PMID:0",
            "IDA",
            "",
            "P",
            "",
            "",
            "protein",
            taxon,
            "20220701",
            "X",
            "",
            "",
        ]
    )


def gaf_text(carries):
    return "!gaf-version: 2.2\n" + "".join(
        gaf_line(gene, term) + "\n" for gene, terms in carries.items() for term in terms
    )


def write(folder, obo=TOY, gaf=None):
    (folder / "go.obo").write_text(obo)
    (folder / "go.gaf").write_text(gaf_text(CARRIES) if gaf is None else gaf)
    return folder / "go.obo", folder / "go.gaf"


@pytest.fixture
def toy(tmp_path):
    return load_go(*write(tmp_path), tmp_path / "cache")


def by_term(space, genes, algorithm):
    return enrich(space, genes, algorithm).set_index("term").p.to_dict()


def at_least(k, n, chosen, total):
    """Return the exact chance that `chosen` of `total` genes hold k or more of n."""
    return sum(
        comb(n, i) * comb(total - n, chosen - i) for i in range(k, min(n, chosen) + 1)
    ) / comb(total, chosen)


def test_obo(tmp_path):
    (tmp_path / "go.obo").write_bytes(b"\xef\xbb\xbf" + TOY.replace("\n", "\r\n").encode())
    got = read_obo(tmp_path / "go.obo")
    assert got.terms.index.tolist() == ["T:0", "T:1", "T:2", "T:11", "T:21", "T:22", "F:0"]
    assert got.terms.name["T:11"] == "T:11"
    assert got.terms.namespace.tolist() == ["biological_process"] * 6 + ["molecular_function"]
    assert set(got.parents.itertuples(index=False, name=None)) == {
        ("T:1", "T:0"),
        ("T:2", "T:0"),
        ("T:11", "T:1"),
        ("T:21", "T:2"),
        ("T:21", "T:22"),
        ("T:22", "T:2"),
    }
    assert got.aliases == {"T:91": "T:1", "T:92": "T:22"}


def test_gaf(tmp_path):
    lines = [
        "! comment",
        gaf_line("a", "T:1"),
        gaf_line("b", "T:1", "NOT|involved_in"),
        "",
        gaf_line("a", "T:1"),
        gaf_line("c", "T:2", taxon="taxon:9606|taxon:11"),
        gaf_line("!d", "T:2").rsplit("\t", 2)[0],
    ]
    (tmp_path / "a.gaf").write_text("\n".join(lines))
    got, _ = read_associations(tmp_path / "a.gaf")
    assert got.to_dict("list") == {
        "gene": ["a", "c", "!d"],
        "term": ["T:1", "T:2", "T:2"],
    } and got.index.tolist() == [2, 6, 7]
    assert read_associations(tmp_path / "a.gaf", column="symbol")[0].gene.tolist() == [
        "Sa",
        "Sc",
        "S!d",
    ]


def test_universe(toy):
    genes = pd.Series([*CARRIES, "nowhere", "g1"], [f"siRNA {i}" for i in range(len(CARRIES) + 2)])
    space = universe(toy, genes, node_size=2)
    assert len(space.genes) == 20 and space.unmapped.to_dict() == {
        "siRNA 20": "g20",
        "siRNA 21": "nowhere",
    }
    assert dict(zip(space.terms.term, space.terms.annotated, strict=True)) == {
        "T:0": 20,
        "T:1": 6,
        "T:2": 6,
        "T:11": 4,
        "T:21": 5,
        "T:22": 5,
    }
    assert dict(zip(space.terms.term, space.level, strict=True)) == {
        "T:0": 0,
        "T:1": 1,
        "T:2": 1,
        "T:11": 2,
        "T:21": 3,
        "T:22": 2,
    }
    assert universe(toy, genes, node_size=6).terms.term.tolist() == ["T:0", "T:1", "T:2"]
    assert universe(toy, ["g20"], "molecular_function", 1).terms.name.tolist() == ["function"]


def test_every_algorithm_by_hand(toy):
    """T:11 holds four of the five chosen.

    T:1 is left with g4, chosen, and g10, of 16 genes with one chosen.
    """
    space, chosen = universe(toy, CARRIES, node_size=1), [f"g{i}" for i in range(5)]
    own = {
        "T:0": 1,
        "T:1": at_least(5, 6, 5, 20),
        "T:11": at_least(4, 4, 5, 20),
        "T:2": at_least(1, 6, 5, 20),
        "T:21": 1,
        "T:22": 1,
    }
    assert own["T:11"] == 16 / comb(20, 5) < enrichment.ELIM_CUT
    assert by_term(space, chosen, "classic") == pytest.approx(own, rel=1e-12)
    assert by_term(space, chosen, "elim") == pytest.approx(own | {"T:1": 2 / 16}, rel=1e-12)
    # T:2 loses no gene, since nothing chosen is in T:22; the root loses those of T:1 and T:2 and
    # keeps none that is chosen
    assert by_term(space, chosen, "weight01") == pytest.approx(own | {"T:1": 2 / 16}, rel=1e-12)
    table = enrich(space, chosen, "elim").set_index("term")
    assert (
        table.columns.tolist() == ["name", "annotated", "significant", "expected", "p"]
        and table.p.is_monotonic_increasing
    )
    assert table.loc["T:1"].tolist() == ["defence ! of the cell", 6, 5, 1.5, pytest.approx(2 / 16)]


def test_a_p_at_the_cut_counts(toy, monkeypatch):
    space, chosen = universe(toy, CARRIES, node_size=1), [f"g{i}" for i in range(5)]
    limit = by_term(space, chosen, "classic")["T:11"]
    monkeypatch.setattr(enrichment, "ELIM_CUT", limit)
    assert by_term(space, chosen, "elim")["T:1"] == pytest.approx(2 / 16)
    monkeypatch.setattr(enrichment, "ELIM_CUT", np.nextafter(limit, 0))
    # now T:1 takes its own genes from the root and keeps its p
    assert by_term(space, chosen, "elim")["T:1"] == pytest.approx(at_least(5, 6, 5, 20))


def test_no_gene_and_every_gene(toy):
    space = universe(toy, [*CARRIES, "nowhere"], node_size=1)
    for algorithm in ALGORITHMS:
        for genes in ([], ["nowhere", "g20"], list(CARRIES)):
            assert set(enrich(space, genes, algorithm).p) == {1.0}


def random_dag(rng, n_terms=60, n_genes=40):
    """Return the parents of each term and the genes that carry each, ancestors' included."""
    parents = {
        t: set(rng.integers(0, t, rng.integers(1, 4)).tolist()) for t in range(1, n_terms)
    } | {0: set()}
    genes = {
        t: {f"g{i}" for i in rng.integers(0, n_genes, rng.integers(0, 4))} for t in range(n_terms)
    }
    genes[0] |= {f"g{i}" for i in range(n_genes)}
    own = {t: set(found) for t, found in genes.items()}
    for t in range(n_terms - 1, 0, -1):
        for parent in parents[t]:
            genes[parent] |= genes[t]
    return parents, own, genes


def brute_force(parents, genes, chosen, algorithm):
    """Walk the terms one by one, children first (a parent's number is smaller), with plain sets."""
    n_genes, gone, p = len(genes[0]), {t: set() for t in genes}, {}
    for t in sorted(genes, reverse=True):
        if algorithm == "weight01":
            gone[t] = set().union(
                *(genes[c] for c in genes if t in parents[c] and genes[c] & chosen)
            )
        left, lost = genes[t] - gone[t], gone[t]
        p[f"T:{t}"] = at_least(
            len(left & chosen), len(left), len(chosen - lost), n_genes - len(lost)
        )
        if algorithm == "elim" and p[f"T:{t}"] <= 0.01:
            above = [t]
            while above:
                above = [parent for term in above for parent in parents[term]]
                for ancestor in above:
                    gone[ancestor] |= genes[t]
    return p


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("node_size", [1, 3])
def test_agrees_with_loops_on_random_graphs(tmp_path, seed, node_size):
    rng = np.random.default_rng(seed)
    parents, own, genes = random_dag(rng)
    obo = "".join(
        f"[Term]\nid: T:{t}\nname: n\n" + "".join(f"is_a: T:{p}\n" for p in parents[t])
        for t in parents
    )
    carries = {}
    for t, members in own.items():
        for gene in members:
            carries.setdefault(gene, []).append(f"T:{t}")
    space = universe(
        load_go(*write(tmp_path, obo, gaf_text(carries)), tmp_path / "cache"),
        carries,
        "",
        node_size,
    )
    tested = {t: members for t, members in genes.items() if len(members) >= node_size}
    changed = set()
    for algorithm in ALGORITHMS:
        for term in (20, 30, 40, 50):
            chosen = genes[term] | {f"g{i}" for i in rng.integers(0, 40, 2)}
            got, classic = by_term(space, chosen, algorithm), by_term(space, chosen, "classic")
            assert got == pytest.approx(brute_force(parents, tested, chosen, algorithm), rel=1e-9)
            changed |= {algorithm} if got != classic else set()
    assert changed >= {"elim", "weight01"}


def test_clusters_and_their_false_discoveries(toy):
    space = universe(toy, [*CARRIES, "nowhere"], node_size=1)
    clusters = pd.Series(
        {f"g{i}": 7 for i in range(5)}
        | {f"g{i}": 3 for i in range(5, 10)}
        | {"g11": 9, "nowhere": 9, "g20": 10}
    )
    # A gene in two clusters, another given twice.
    clusters = pd.concat([clusters, pd.Series({"g0": 3, "g1": 7})])
    got = enrich_clusters(space, clusters)
    assert got.columns.tolist() == enrichment.COLUMNS and (got.significant > 0).all()
    assert list(dict.fromkeys(zip(got.cluster, got.algorithm, strict=True))) == [
        (c, a) for c in (3, 7, 9) for a in ALGORITHMS
    ]
    for (cluster, algorithm), part in got.groupby(["cluster", "algorithm"]):
        p = np.sort(enrich(space, clusters.index[clusters == cluster], algorithm).p)
        # by definition: the least n p / rank over all p that are not smaller
        expected = [
            min(1, min(len(p) * p[k] / (k + 1) for k in range(len(p)) if p[k] >= one))
            for one in part.p
        ]
        assert part.q.tolist() == pytest.approx(expected, rel=1e-12)
    counts = count_enriched(got, clusters)
    assert counts.loc["classic"].to_dict() == {
        "clusters": 4,
        "any": 2,
        "multi_gene": 3,
        "multi_gene_two_terms": 2,
    }
    # elim leaves each of them its deepest term: T:11 and T:21
    assert counts.loc["elim"].to_dict() == {
        "clusters": 4,
        "any": 2,
        "multi_gene": 3,
        "multi_gene_two_terms": 0,
    }
    assert count_enriched(got, clusters, fdr=1e-9)["any"].tolist() == [0, 0, 0]
    assert enrich_clusters(space, clusters[clusters == 10]).empty


def test_ids_that_pandas_read_as_numbers(tmp_path):
    carries = {str(number): ["T:11"] for number in range(101, 106)} | {"200": ["T:2"]}
    go = load_go(*write(tmp_path, gaf=gaf_text(carries)), tmp_path / "cache")
    floats = pd.Series([*range(101, 106), 200], dtype=float)
    for ids in (floats, floats.to_numpy(np.float32), np.arange(101, 106), [" 101 ", "102"]):
        assert universe(go, ids, node_size=1).unmapped.empty
    space = universe(go, range(101, 106), node_size=1)
    assert (
        enrich_clusters(space, pd.Series("c", index=[101.0, 102.0])).significant.tolist() == [2] * 9
    )


def test_cache(tmp_path, monkeypatch):
    obo, gaf = write(tmp_path)
    fresh = load_go(obo, gaf, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(ontology, "read_obo", None)
        cached = load_go(obo, gaf, tmp_path / "cache")
    for name in ontology.TABLES:
        pd.testing.assert_frame_equal(getattr(cached, name), getattr(fresh, name))
    folder = next((tmp_path / "cache").iterdir())
    assert sorted(path.name for path in folder.glob("*.parquet")) == [
        "annotation.parquet",
        "names.parquet",
        "outdated.parquet",
        "parents.parquet",
        "terms.parquet",
    ]
    (folder / "terms.parquet").write_bytes(b"not Parquet")
    (folder / "parents.parquet").unlink()
    pd.testing.assert_frame_equal(load_go(obo, gaf, tmp_path / "cache").terms, fresh.terms)
    gaf.write_text(gaf_text(CARRIES | {"new": ["T:1"]}))
    assert "new" in set(load_go(obo, gaf, tmp_path / "cache").annotation.gene)
    obo.write_text(TOY.replace("name: signalling", "name: speaking"))
    assert load_go(obo, gaf, tmp_path / "cache").terms.name["T:2"] == "speaking"
    assert "Snew" in set(load_go(obo, gaf, tmp_path / "cache", column="symbol").annotation.gene)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    with pytest.raises(InputError):
        load_go(obo, gaf, tmp_path / "cache", taxon=10090)


def stanza(term, *tags):
    return "\n".join(["[Term]", f"id: {term}", *tags]) + "\n"


@pytest.mark.parametrize(
    "text, problems",
    [
        ("", ["no [Term] stanza"]),
        ("format-version: 1.2\n[Typedef]\nid: part_of\n", ["no [Term] stanza"]),
        (
            "[Term]\nname: a\n" + stanza("T:1") + stanza("T:1"),
            ["line 1: no id", "line 5: T:1 is defined twice"],
        ),
        (
            stanza("T:1", "is_a: T:7", "is_a:", "relationship: part_of")
            + stanza("T:2", "is_obsolete: true")
            + stanza("T:3", "is_a: T:2"),
            [
                "line 1: T:1 has the parent 'T:7', which does not exist or is obsolete",
                "line 1: T:1 has the parent '', which does not exist or is obsolete",
                "line 1: T:1 has the parent '', which does not exist or is obsolete",
                "line 9: T:3 has the parent 'T:2', which does not exist or is obsolete",
            ],
        ),
        (
            stanza("T:0")
            + stanza("T:1", "is_a: T:0", "is_a: T:3")
            + stanza("T:2", "is_a: T:1")
            + stanza("T:3", "relationship: regulates T:2")
            + stanza("T:4", "is_a: T:4")
            + "".join(stanza(f"U:{i}", f"is_a: U:{(i + 1) % 7}") for i in range(7)),
            ["T:1, T:2, T:3", "T:4", "U:0, U:1, U:2, U:3, U:4 and 2 more"],
        ),
    ],
)
def test_bad_ontology(tmp_path, text, problems):
    path = tmp_path / "bad.obo"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)) as error:
        read_obo(path)
    assert error.value.problems == problems


def test_bad_annotation(tmp_path):
    path = tmp_path / "bad.gaf"
    mouse = [gaf_line("d", "T:1", taxon="taxon:10090")] * 1200
    path.write_text(
        "\n".join(
            [
                "!x",
                gaf_line("a", "T:1"),
                "X\ta\tb",
                gaf_line(" ", "T:1"),
                gaf_line("b", ""),
                gaf_line("c", "T:1", taxon=""),
                *mouse,
                gaf_line("e", "T:1") + "\t",
            ]
        )
    )
    with pytest.raises(InputError, match=str(path)) as error:
        read_associations(path)
    assert error.value.problems == [
        "line 3: 3 columns",
        "line 4: no gene id",
        "line 5: no term",
        "line 1207: 18 columns",
        "line 6: no taxon (1 rows)",
        "line 7: taxon:10090 (1,200 rows)",
    ]
    assert "taxon:9606" in str(error.value)
    path.write_text("!gaf-version: 2.2\n" + gaf_line("a", "T:1", "NOT"))
    with pytest.raises(InputError, match="no annotation"):
        read_associations(path)
    with pytest.raises(InputError, match="id, symbol"):
        read_associations(path, column="entrez")


def test_files_that_do_not_belong_together(tmp_path):
    obo, gaf = write(tmp_path, gaf=gaf_text({"a": ["T:1", "T:77"], "b": ["T:9"]}))
    with pytest.raises(InputError, match=r"2 of its 3 terms .* one release") as error:
        load_go(obo, gaf, tmp_path / "cache")
    assert (
        error.value.problems == ["line 3: T:77", "line 4: T:9"]
        and not (tmp_path / "cache").exists()
    )
    with pytest.raises(InputError) as error:
        load_go(tmp_path / "no.obo", tmp_path / "no.gaf", tmp_path)
    assert error.value.problems == [str(tmp_path / "no.obo"), str(tmp_path / "no.gaf")]


@pytest.mark.parametrize(
    ("tags", "present"),
    [
        (["replaced_by: T:1 ! defence"], "T:1"),
        (["replaced_by: T:92"], "T:22"),
        (["replaced_by: T:90"], "T:2"),
        (["consider: T:1"], ""),
        (["replaced_by: T:1", "replaced_by: T:2"], ""),
        (["replaced_by: T:8"], ""),
        (["replaced_by: T:404"], ""),
        ([], ""),
    ],
    ids=["term", "alias", "chain", "consider", "several", "circle", "nowhere", "nothing"],
)
def test_an_obsolete_term_is_that_which_replaced_it_or_left_out(tmp_path, capsys, tags, present):
    obo = TOY + "\n" + stanza("T:8", "is_obsolete: true", *tags)
    obo += stanza("T:90", "is_obsolete: true", "replaced_by: T:2")
    obo, gaf = write(tmp_path, obo, gaf_text(CARRIES | {"old": ["T:8"]}))
    for _ in range(2):  # from the cache as well
        annotation = load_go(obo, gaf, tmp_path / "cache").annotation.set_index("gene")["term"]
        said = capsys.readouterr().out
        assert annotation.get("old", "") == present
        assert ("left out, as their terms are obsolete or unknown: 1 ('T:8')" in said) == (
            present == ""
        )
        assert ("have replaced theirs: 2 ('T:91', 'T:8')" in said) == (present != "")


GENE2GO = (
    "#tax_id\tGeneID\tGO_ID\tEvidence\tQualifier\tGO_term\tPubMed\tCategory\n"
    "9606\t1\tT:1\tIDA\tinvolved_in\tdefence\t1|2\tProcess\n"
    "9606\t2\tT:91\tIDA\t-\tdefence\t-\tProcess\n"
    "9606\t3\tT:1\tIDA\tNOT involved_in\tdefence\t-\tProcess\n"
    "10090\t4\tT:2\tIDA\tinvolved_in\tsignalling\t-\tProcess\n"
)


@pytest.mark.parametrize(
    "text", [GENE2GO, GENE2GO[1:], GENE2GO.partition("\n")[2]], ids=["whole", "pandas", "rows"]
)
def test_gene2go(tmp_path, text):
    (tmp_path / "gene2go.gz").write_bytes(gzip.compress(text.encode()))
    obo, _ = write(tmp_path)
    go = load_go(obo, tmp_path / "gene2go.gz", tmp_path / "cache")
    assert go.annotation.to_dict("list") == {"gene": ["1", "2"], "term": ["T:1", "T:1"]}
    assert load_go(obo, tmp_path / "gene2go.gz", tmp_path, 10090).annotation.gene.tolist() == ["4"]
    with pytest.raises(InputError, match="no annotation of taxon:7227"):
        load_go(obo, tmp_path / "gene2go.gz", tmp_path, 7227)
    with pytest.raises(
        InputError, match="gene2go, which names genes by Entrez id: expected gaf_column=id"
    ):
        load_go(obo, tmp_path / "gene2go.gz", tmp_path, column="symbol")


def test_old_symbols_are_read_as_the_gene_that_alone_has_them(tmp_path):
    synonyms = {"a": "OLD|both", "b": "Both|Sa", "c": "sD", "d": "", "e": ""}
    rows = [gaf_line(gene, "T:1").split("\t") for gene in synonyms]
    gaf = "\n".join("\t".join([*row[:10], synonyms[row[1]], *row[11:]]) for row in rows)
    go = load_go(*write(tmp_path, gaf=gaf), tmp_path / "cache", column="symbol")
    library = pd.Series(["old", "Old", "Sa", "sa", "BOTH", "sd", "Se"], list("qrstuvw"))
    space = universe(go, library, node_size=1)
    assert space.genes.tolist() == ["Sa", "Sd", "Se"] and space.unmapped.to_dict() == {"u": "BOTH"}
    assert space.renamed.to_dict() == {"old": "Sa", "Old": "Sa", "sa": "Sa", "sd": "Sd"}
    found = enrich_clusters(space, pd.Series(1, ["OLD", "old", "BOTH", "Se"][1:]), ["classic"])
    assert set(found.significant) == {2}
    by_id = load_go(*write(tmp_path, gaf=gaf), tmp_path / "cache")
    assert universe(by_id, ["a", "OLD", "B"], node_size=1).unmapped.tolist() == ["OLD", "B"]


@pytest.mark.parametrize("read", [read_obo, read_associations])
def test_hostile_files(tmp_path, monkeypatch, read):
    path, rng = tmp_path / "file.gz", np.random.default_rng(0)
    packed = gzip.compress(TOY.encode() + rng.bytes(5000).hex().encode())
    for content in (
        rng.bytes(3000),
        bytes(3000),
        packed[:-2000],
        packed[:500] + bytes(100) + packed[600:],
        b"\x1f\x8b",
        b"[" * 3000,
        b"[Term]\x00\nid\x00: \n" * 50,
        b"\t" * 3000,
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=str(path)):
            read(path)
    with pytest.raises(InputError, match=str(tmp_path)):
        read(tmp_path)
    monkeypatch.setattr(files, "MAX_TEXT", 100_000)
    path.write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(InputError, match="at most 100,000"):
        read(path)


def test_strange_names_are_data(tmp_path):
    long, odd = "x" * 10_000, "a\u2028b\x0b=1+1\t\"';{}[]"
    obo = stanza("T:0", f"name: {long}") + stanza(long, f"name: {odd}", "is_a: T:0")
    go = load_go(
        *write(tmp_path, obo, gaf_text({f"g{i}": [long] for i in range(6)} | {long: ["T:0"]})),
        tmp_path / "cache",
    )
    table = enrich(universe(go, [long, *(f"g{i}" for i in range(6))], ""), ["g1"], "elim")
    assert dict(zip(table.term, table.name, strict=True)) == {long: odd, "T:0": long}


def test_bad_questions(toy):
    space = universe(toy, CARRIES, node_size=1)
    with pytest.raises(InputError) as error:
        universe(
            toy, pd.Series(["g1", "", None, " ", np.nan], ["AAK1", "AXL", "AATK", "AZU1", "CERK"])
        )
    assert error.value.problems == ["row AXL", "row AATK", "row AZU1", "row CERK"]
    with pytest.raises(InputError) as error:
        universe(toy, CARRIES, "cellular_component")
    assert error.value.problems == ["biological_process", "molecular_function"]
    for genes in (["AXL", "CERK"], [], ["g1"]):
        with pytest.raises(InputError, match="5 genes or more") as error:
            universe(toy, genes)
        assert error.value.problems == [f"library: {', '.join(genes)}", "GAF: g0, g1, g2, g3, g4"]
    for run in (
        lambda: enrich(space, ["g1", "g99", "AXL"]),
        lambda: enrich_clusters(space, pd.Series({"g1": 1, "AXL": 2, "g99": 3})),
    ):
        with pytest.raises(InputError, match="of the library") as error:
            run()
        assert error.value.problems == ["AXL", "g99"]
    with pytest.raises(InputError, match="classic, elim, weight01"):
        enrich(space, ["g1"], "weight")
    with pytest.raises(InputError) as error:
        enrich_clusters(space, pd.Series({"g1": 1, "g2": np.nan}))
    assert error.value.problems == ["gene g2"]
    with pytest.raises(InputError, match="every gene needs an id"):
        enrich_clusters(space, pd.Series([1, 2], ["g1", None]))
    with pytest.raises(InputError, match="needs a cluster"):
        enrich_clusters(space, pd.Series(dtype=float))


@pytest.fixture(scope="module")
def topgo(shared_data, tmp_path_factory):
    """Write the graph and annotation of topGO's ALL example as OBO and GAF.

    Returned with its gene scores and its results.
    """
    source, folder = shared_data / "topgo", tmp_path_factory.mktemp("topgo")
    edges = pd.read_csv(source / "ALL_godata_edges_child_parent.csv")
    carried = pd.read_csv(source / "ALL_godata_genes_in_term_propagated.csv.gz")
    parents = edges.groupby("child").parent.agg(list).to_dict()
    obo = "".join(
        stanza(
            term,
            "namespace: biological_process",
            *[f"is_a: {parent}" for parent in parents.get(term, [])],
        )
        for term in sorted(set(carried.go))
    )
    go = load_go(
        *write(folder, obo, gaf_text(carried.groupby("gene").go.agg(list).to_dict())),
        folder / "cache",
    )
    return (
        go,
        pd.read_csv(source / "ALL_godata_gene_scores.csv"),
        pd.read_csv(source / "ALL_godata_results.csv").set_index("go"),
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_equals_topgo(topgo, algorithm):
    """The ALL example of topGO.

    318 genes, the 50 with a score below 0.01 chosen, nodeSize 5, 777 terms.
    """
    go, scores, expected = topgo
    assert (scores.significant == (scores.score < 0.01)).all()
    space = universe(go, scores.gene, node_size=5)
    got = (
        enrich(space, scores.gene[scores.significant], algorithm)
        .set_index("term")
        .loc[expected.index]
    )
    assert (len(space.genes), len(space.unmapped), len(space.terms), len(got)) == (318, 0, 777, 777)
    np.testing.assert_allclose(got.p, expected[f"{algorithm}Fisher"], rtol=1e-12)
    assert (
        got.annotated.tolist() == expected.Annotated.tolist()
        and got.significant.tolist() == expected.Significant.tolist()
    )
    np.testing.assert_allclose(got.expected, expected.Expected, atol=0.005 + 1e-9)


@pytest.fixture(scope="module")
def human(shared_data, gene_ontology):
    """Real GO with human annotation, and the Entrez ids of KiMorph's siRNAs by their symbols."""
    plate = pd.read_csv(shared_data / "kimorph" / "kimorph_featureData.csv")
    return gene_ontology, plate[plate.controlStatus == "sample"].set_index("GeneID").LocusID


def test_kimorph_by_entrez_id(human):
    go, sirnas = human
    assert len(go.terms) == 43_558 and sirnas.nunique() == 777
    process, function = universe(go, sirnas), universe(go, sirnas, "molecular_function")
    assert (len(process.genes), len(function.genes)) == (768, 771)
    assert process.unmapped.to_dict() == {
        "FLJ35107": "348825",
        "CDC2L2": "985",
        "EIF2AK4": "27104",
        "NYD-SP25": "89882",
        "KIAA1639": "57729",
        "MGC26597": "206426",
        "MPP3": "4356",
        "KALRN": "11139",
        "TSKS": "60385",
    }
    assert set(function.unmapped) == {"348825", "985", "27104", "57729", "206426", "11139"}
    chosen = process.genes[::25]
    table = enrich(process, chosen, "classic")
    np.testing.assert_allclose(
        table.p, hypergeom.sf(table.significant - 1, 768, len(chosen), table.annotated), rtol=1e-12
    )


def test_planted_terms_are_found(human):
    """27 clusters of real kinases.

    Each of the first nine holds 70 % of the genes of a term without children, and 12 others.
    """
    go, sirnas = human
    space, rng = universe(go, sirnas), np.random.default_rng(5)
    leaves = np.flatnonzero(
        (space.children.sum(axis=1) == 0) & space.terms.annotated.between(8, 30)
    )
    planted = dict(enumerate(rng.choice(leaves, 9, replace=False), 1))
    clusters = pd.Series(rng.integers(10, 28, len(space.genes)), space.genes)
    for cluster, term in planted.items():
        members = space.genes[space.members[[term]].indices]
        clusters[rng.choice(members, round(0.7 * len(members)), replace=False)] = cluster
        clusters[rng.choice(clusters.index[clusters > 9], 12, replace=False)] = cluster
    found = enrich_clusters(space, clusters).query("q <= 0.05")
    for _, part in found.groupby("algorithm"):
        assert {(cluster, space.terms.term[term]) for cluster, term in planted.items()} <= set(
            zip(part.cluster, part.term, strict=True)
        )
    assert set(found.algorithm) == set(ALGORITHMS)


def test_permuted_libraries_have_few_enriched_clusters(human):
    go, sirnas = human
    space, rng = universe(go, sirnas), np.random.default_rng(8)
    labels, found = rng.integers(1, 28, len(space.genes)), []
    for _ in range(6):
        clusters = pd.Series(rng.permutation(labels), space.genes)
        found.append(count_enriched(enrich_clusters(space, clusters), clusters))
    total = sum(found)
    assert (total.clusters == 6 * 27).all() and set(total.index) == set(ALGORITHMS)
    assert (total["any"] / total.clusters <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / (6 * 27))).all()
