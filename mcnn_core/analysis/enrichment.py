"""Gene Ontology terms over-represented in clusters of genes, as topGO finds them.

The paper does so in its Results, l. 180-187.

The graph is GO.db's: is_a, part_of and the three regulates relations, within one namespace. A gene
carries its terms and all their ancestors. For each term a one-sided Fisher test asks whether the
genes of a cluster carry it more often than those of the library, by one of three algorithms:

- **classic** tests each term by itself.
- **elim** goes up from the deepest level. The genes of a term with p at or below `ELIM_CUT` are
  taken from all its ancestors (Alexa, Rahnenführer & Lengauer 2006, Bioinformatics 22, 1600).
- **weight01**, topGO's default, as topGO 2.59.0 computes it: a term is tested without the genes of
  those of its children that a gene of the cluster carries. (topGO compares the p-values of child
  and term, but counts the child as the better one whatever comes out.)

Genes taken from a term are also taken from the library and the cluster for the test of that term.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, eye_array
from scipy.stats import false_discovery_control, hypergeom

from mcnn_core.errors import InputError
from mcnn_core.readers.ontology import GeneOntology, incidence

ELIM_CUT = 0.01  #: topGO's default
COLUMNS = ["cluster", "term", "name", "p", "q", "algorithm", "annotated", "significant", "expected"]


@dataclass(frozen=True)
class Universe:
    """The genes of a library and the terms that can be tested with them.

    Attributes
    ----------
    genes : Index
        Ids of the genes with an annotation in this namespace, sorted: the background.
    unmapped : Series
        Ids of the other genes of the library, with the labels they came with.
    renamed : Series
        The present name of each gene that the library calls by an older one; that is its index.
    terms : DataFrame
        ``term, name, annotated``: the terms that enough genes carry, with their number, by id.
    members : (terms, genes) sparse bool
        Which term is carried by which gene.
    children, below : (terms, terms) sparse bool
        Whether the column is a child of the row; whether it is the row or a descendant.
    level : (terms,) int array
        Edges on the longest path to the root.
    """

    genes: pd.Index
    unmapped: pd.Series
    renamed: pd.Series
    terms: pd.DataFrame
    members: csr_array
    children: csr_array
    below: csr_array
    level: np.ndarray


def _spread(children: csr_array, rows: csr_array) -> csr_array:
    """Return `rows`, (terms, any) bool, each row joined with those of the term's descendants."""
    while (further := rows + children @ rows).nnz > rows.nnz:
        rows = further
    return rows


def _levels(children: csr_array) -> np.ndarray:
    """Return the number of edges on each term's longest path to a root."""
    parent, child = children.nonzero()
    level, before = np.zeros(children.shape[0], int), np.empty(0, int)
    while not np.array_equal(level, before):
        before = level.copy()
        np.maximum.at(level, child, before[parent] + 1)
    return level


def _ids(genes: Iterable) -> pd.Series:
    """Return gene ids as text, labelled as `genes`; floats of pandas lose their ".0"."""
    values = genes if isinstance(genes, pd.Series) else pd.Series(list(genes), dtype=object)
    texts = [
        str(int(value))
        if isinstance(value, float | np.floating) and value.is_integer()
        else str(value).strip()
        for value in values
    ]
    ids = pd.Series(texts, values.index, dtype=str)
    absent = values.isna() | (ids == "")
    if absent.any():
        rows = [f"row {label}" for label in values.index[absent]]
        raise InputError("every gene needs an id; none at", rows)
    return ids


def universe(
    go: GeneOntology, genes: Iterable, namespace: str = "biological_process", node_size: int = 5
) -> Universe:
    """Bring a library and an ontology together.

    Parameters
    ----------
    go : GeneOntology
    genes : Series or iterable
        The id of every gene of the library, in the naming of the GAF; repeats count once. A symbol
        that the GAF lacks is that of the only gene with such a symbol or synonym, in upper and
        lower case alike.
    namespace : str
        For GO biological_process, molecular_function or cellular_component.
    node_size : int
        Genes a term must have to be tested, 1 or more (topGO's nodeSize).

    Raises
    ------
    InputError
        If a gene has no id, the namespace does not exist, or no term in it has enough genes.
    """
    library, annotation = _ids(genes), go.annotation
    names = go.names.set_index("name")["gene"]
    old = library[~library.isin(annotation["gene"]) & library.str.upper().isin(names.index)]
    old = old.drop_duplicates()
    renamed = old.str.upper().map(names).set_axis(old)
    library = library.map(lambda name: renamed.get(name, name)).drop_duplicates()
    terms = go.terms[go.terms["namespace"] == namespace].sort_index()
    if terms.empty:
        present = sorted(set(go.terms["namespace"]))
        raise InputError(f"the ontology has no namespace {namespace!r}; it has", present)
    rows = annotation[annotation["gene"].isin(library) & annotation["term"].isin(terms.index)]
    edges = go.parents[go.parents["child"].isin(terms.index)]
    mapped = pd.Index(sorted(set(rows["gene"])), dtype=str)
    children = incidence(edges["parent"], edges["child"], terms.index, terms.index)
    members = _spread(children, incidence(rows["term"], rows["gene"], terms.index, mapped))
    annotated = members.sum(axis=1)
    kept = np.flatnonzero(annotated >= max(node_size, 1))
    if not len(kept):
        samples = {"library": library, "GAF": annotation["gene"].drop_duplicates()}
        raise InputError(
            f"no term of {namespace} has {node_size} genes or more of the library; its ids must be "
            "those of the GAF",
            [f"{source}: {', '.join(ids[:5])}" for source, ids in samples.items()],
        )
    table = terms[["name"]].iloc[kept].rename_axis("term").reset_index()
    children = children[kept][:, kept]
    return Universe(
        genes=mapped,
        unmapped=library[~library.isin(mapped)],
        renamed=renamed,
        terms=table.assign(annotated=annotated[kept]),
        members=members[kept],
        children=children,
        below=_spread(children, eye_array(len(kept), dtype=bool, format="csr")),
        level=_levels(children),
    )


def _fisher(members: csr_array, chosen: np.ndarray, gone: csr_array) -> np.ndarray:
    """Return the one-sided p of each row of `members`, (terms, genes).

    `chosen` is 1 for the genes of the cluster, else 0; `gone` marks genes taken from a term,
    (terms, genes), all of them its members. They leave the library and the cluster as well.
    """
    lost, lost_chosen = gone.sum(axis=1), gone @ chosen
    left, left_chosen = members.sum(axis=1) - lost, members @ chosen - lost_chosen
    genes, cluster = chosen.size - lost, chosen.sum() - lost_chosen
    # A term that keeps no gene of the cluster has p = 1.
    p, some = np.ones(len(left)), left_chosen > 0
    tail = hypergeom.sf(left_chosen[some] - 1, genes[some], cluster[some], left[some])
    p[some] = np.minimum(tail, 1.0)
    return p


def _classic(space: Universe, chosen: np.ndarray) -> np.ndarray:
    return _fisher(space.members, chosen, csr_array(space.members.shape, dtype=bool))


def _elim(space: Universe, chosen: np.ndarray) -> np.ndarray:
    """Return the p of each term; a level's genes are complete once all deeper levels are tested."""
    p, carried = np.ones(len(space.terms)), space.members @ chosen > 0
    for level in range(space.level.max(), -1, -1):
        rows, hits = np.flatnonzero(carried & (space.level == level)), np.flatnonzero(p <= ELIM_CUT)
        if len(rows):
            gone = space.below[rows][:, hits] @ space.members[hits]
            p[rows] = _fisher(space.members[rows], chosen, gone)
    return p


def _weight01(space: Universe, chosen: np.ndarray) -> np.ndarray:
    carried = np.flatnonzero(space.members @ chosen)
    return _fisher(space.members, chosen, space.children[:, carried] @ space.members[carried])


ALGORITHMS = {"classic": _classic, "elim": _elim, "weight01": _weight01}


def _chosen(space: Universe, genes: Iterable) -> np.ndarray:
    """Return 1 for each gene of the universe among `genes`, else 0, passing over unmapped ones."""
    ids = _ids(genes).map(lambda name: space.renamed.get(name, name))
    place = space.genes.get_indexer(ids)
    if strange := set(ids[place < 0]) - set(space.unmapped):
        raise InputError("genes of clusters must be genes of the library", sorted(strange))
    return np.isin(np.arange(len(space.genes)), place).astype(int)


def enrich(space: Universe, genes: Iterable, algorithm: str = "elim") -> pd.DataFrame:
    """Test every term of a universe for one set of genes.

    Returns
    -------
    DataFrame
        By rising p, then id: ``term, name, annotated`` (genes of the library), ``significant``
        (genes of the set), ``expected`` (of the set, by chance) and ``p``. The counts are before
        any algorithm takes genes away, as in topGO's tables.

    Raises
    ------
    InputError
        If a gene has no id or is not in the library, or the algorithm is none of `ALGORITHMS`.
    """
    if algorithm not in ALGORITHMS:
        raise InputError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    chosen = _chosen(space, genes)
    table = space.terms.assign(
        significant=space.members @ chosen,
        expected=space.terms["annotated"] * (chosen.sum() / chosen.size),
        p=ALGORITHMS[algorithm](space, chosen),
    )
    return table.sort_values("p", kind="stable", ignore_index=True)


def enrich_clusters(
    space: Universe, clusters: pd.Series, algorithms: Sequence[str] = tuple(ALGORITHMS)
) -> pd.DataFrame:
    """Test every term for every cluster (``enrichment.csv``).

    Parameters
    ----------
    space : Universe
    clusters : Series
        Cluster of each gene; the index holds gene ids. A gene may be in several clusters.
    algorithms : sequence of str
        Of `ALGORITHMS`.

    Returns
    -------
    DataFrame
        `COLUMNS`, by cluster, algorithm and p. ``q`` is Benjamini and Hochberg's within cluster and
        algorithm, over all terms of the universe; those without a gene of the cluster count as p =
        1 and get no row. elim and weight01 make one test depend on others; topGO's authors
        therefore leave their p uncorrected.

    Raises
    ------
    InputError
        If a gene has no cluster, and as `enrich`.
    """
    if clusters.empty or clusters.isna().any():
        missing = [f"gene {gene}" for gene in clusters.index[clusters.isna()]]
        raise InputError("every gene needs a cluster", missing)
    _chosen(space, clusters.index)  # names the strange genes of all clusters at once
    tables = []
    for cluster, part in clusters.groupby(clusters.to_numpy()):
        for algorithm in algorithms:
            table = enrich(space, part.index, algorithm)
            table["q"] = false_discovery_control(table["p"])
            found = table[table["significant"] > 0]
            tables.append(found.assign(cluster=cluster, algorithm=algorithm))
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def count_enriched(table: pd.DataFrame, clusters: pd.Series, fdr: float = 0.05) -> pd.DataFrame:
    """Count the clusters with enriched terms (the paper: 22 of 24 `multi_gene` ones have two).

    Parameters
    ----------
    table, clusters
        What `enrich_clusters` returned and took.
    fdr : float
        Largest q of an enriched term.

    Returns
    -------
    DataFrame
        Indexed by algorithm: ``clusters``; ``any``, those with a term or more; ``multi_gene``,
        clusters of two different genes or more; ``multi_gene_two_terms``, those of them with two
        terms or more.
    """
    genes = _ids(clusters.index).groupby(clusters.to_numpy()).nunique()
    counts = {}
    for algorithm, part in table.groupby("algorithm", sort=False):
        found = part.loc[part["q"] <= fdr, "cluster"].value_counts()
        terms = found.reindex(genes.index, fill_value=0)
        counts[algorithm] = {
            "clusters": len(genes),
            "any": int((terms > 0).sum()),
            "multi_gene": int((genes > 1).sum()),
            "multi_gene_two_terms": int(((genes > 1) & (terms > 1)).sum()),
        }
    return pd.DataFrame.from_dict(counts, orient="index").rename_axis("algorithm")
