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

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow import ArrowException
from scipy.sparse import csr_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import false_discovery_control, hypergeom

from mcnn_core.errors import InputError
from mcnn_core.machine.files import atomic, read_text, sha256

#: edges beside is_a, as in GO.db
RELATIONS = ("part_of", "regulates", "positively_regulates", "negatively_regulates")
GENE_COLUMNS = {"id": 1, "symbol": 2}  #: columns of a GAF that can name the gene, counted from 0
ELIM_CUT = 0.01  #: topGO's default
TABLES = ("terms", "parents", "annotation")  #: of the cache, in the order of `GeneOntology`
CACHE_FORMAT = 1  #: another number makes every cache stale; raise it when parsing changes
COLUMNS = ["cluster", "term", "name", "p", "q", "algorithm", "annotated", "significant", "expected"]


@dataclass(frozen=True)
class Ontology:
    """The terms of an OBO file, obsolete ones left out.

    ``terms``, indexed by id, has ``name`` and ``namespace``; ``parents`` a row per edge, ``child``
    and ``parent``, ids of one namespace, free of cycles; ``aliases`` the term of each alt_id.
    """

    terms: pd.DataFrame
    parents: pd.DataFrame
    aliases: dict[str, str]


@dataclass(frozen=True)
class GeneOntology:
    """Terms and parents of an `Ontology`; ``annotation`` has a row per ``gene`` and ``term``."""

    terms: pd.DataFrame
    parents: pd.DataFrame
    annotation: pd.DataFrame


@dataclass(frozen=True)
class Universe:
    """The genes of a library and the terms that can be tested with them.

    Attributes
    ----------
    genes : Index
        Ids of the genes with an annotation in this namespace, sorted: the background.
    unmapped : Series
        Ids of the other genes of the library, with the labels they came with.
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
    terms: pd.DataFrame
    members: csr_array
    children: csr_array
    below: csr_array
    level: np.ndarray


def _lines(path: str | os.PathLike) -> list[str]:
    """Return the lines of a UTF-8 text, plain or gzip, whatever its line ends."""
    return read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _stanzas(lines: list[str]) -> Iterator[tuple[int, str, dict[str, list[str]]]]:
    """Yield first line, kind ("" for the header) and values by tag of each part of an OBO file."""
    start, kind = 1, ""
    tags: defaultdict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(lines, 1):
        if line.startswith("["):
            yield start, kind, tags
            start, kind, tags = number, line.split("!")[0].strip(), defaultdict(list)
        else:
            tag, _, value = line.partition(":")
            tags[tag.strip()].append(value.strip())
    yield start, kind, tags


def _id(text: str, place: int = 0) -> str:
    """Return a word of a value, "" if there is none; modifiers and a comment may follow."""
    return (text.split()[place:] or [""])[0]


def _matrix(rows: Iterable, columns: Iterable, index: pd.Index, names: pd.Index) -> csr_array:
    """Return the sparse bool matrix of `index` by `names` that is True at the pairs of labels."""
    places = index.get_indexer(rows), names.get_indexer(columns)
    return csr_array((np.ones(len(places[0]), bool), places), shape=(len(index), len(names)))


def _cycles(terms: pd.Index, parents: pd.DataFrame) -> list[str]:
    """Return one line for each set of terms that are their own ancestors."""
    edges = _matrix(parents["child"], parents["parent"], terms, terms)
    _, group = connected_components(edges, connection="strong")
    knotted = (np.bincount(group)[group] > 1) | edges.diagonal()
    sets = [list(ids) for _, ids in terms[knotted].to_series().groupby(group[knotted])]
    return [
        ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "") for ids in sets
    ]


def read_obo(path: str | os.PathLike) -> Ontology:
    """Read an OBO file (1.2 or 1.4, also gzip).

    Edges are is_a and `RELATIONS`; those to another namespace are dropped, as GO.db has one graph
    per namespace. A term without a name is called by its id.

    Raises
    ------
    InputError
        If it cannot be read, has no terms, a term without id or given twice, a parent that is no
        term, or a cycle.
    """
    terms, edges, problems, namespace = {}, [], [], ""
    aliases: dict[str, str] = {}
    for line, kind, tags in _stanzas(_lines(path)):
        if kind == "":
            namespace = "".join(tags["default-namespace"][:1])
        if kind != "[Term]" or "true" in tags["is_obsolete"]:
            continue
        term = _id("".join(tags["id"][:1]))
        if not term or term in terms:
            problems.append(f"line {line}: {f'{term} is defined twice' if term else 'no id'}")
        terms[term] = ((tags["name"] or [term])[0], (tags["namespace"] or [namespace])[0])
        aliases |= {_id(alias): term for alias in tags["alt_id"]}
        related = [_id(text, 1) for text in tags["relationship"] if _id(text) in RELATIONS]
        edges += [(term, up, line) for up in [_id(text) for text in tags["is_a"]] + related]
    aliases = {alias: term for alias, term in aliases.items() if alias not in terms}
    edges = [(child, aliases.get(parent, parent), line) for child, parent, line in edges]
    problems += [
        f"line {line}: {child} has the parent {parent!r}, which does not exist or is obsolete"
        for child, parent, line in edges
        if parent not in terms
    ]
    if problems or not terms:
        raise InputError(
            f"{path}: expected [Term] stanzas with ids of their own and parents among them",
            problems or ["no [Term] stanza"],
        )
    table = pd.DataFrame(list(terms.values()), list(terms), ["name", "namespace"], dtype=str)
    near = [(child, parent) for child, parent, _ in edges if terms[child][1] == terms[parent][1]]
    parents = pd.DataFrame(near, columns=["child", "parent"], dtype=str)
    if cycles := _cycles(table.index, parents):
        raise InputError(
            f"{path}: no term may be its own ancestor; cycles of is_a, {', '.join(RELATIONS)}:",
            cycles,
        )
    return Ontology(table.rename_axis("term"), parents.drop_duplicates(ignore_index=True), aliases)


def read_gaf(path: str | os.PathLike, taxon: int = 9606, column: str = "id") -> pd.DataFrame:
    """Read a GAF file (1.0 to 2.2, also gzip), without its NOT rows.

    Parameters
    ----------
    path : path
    taxon : int
        NCBI's number of the species; 9606 is human.
    column : {"id", "symbol"}
        What names the gene: DB Object ID (column 2) or DB Object Symbol (column 3).

    Returns
    -------
    DataFrame
        ``gene`` and ``term``, each pair once; indexed by the line it stands in first.

    Raises
    ------
    InputError
        If it cannot be read, has no annotation, or rows with too few columns, no gene, no term or
        another species.
    """
    if column not in GENE_COLUMNS:
        raise InputError(f"column must be one of {', '.join(GENE_COLUMNS)}, got {column!r}")
    pairs: dict[tuple[str, str], int] = {}
    problems, others = [], defaultdict(list)
    for line, text in enumerate(_lines(path), 1):
        if text.startswith("!") or not text.strip():
            continue
        cells = [cell.strip() for cell in text.split("\t")]
        if not 15 <= len(cells) <= 17:
            problems.append(f"line {line}: {len(cells)} columns")
            continue
        gene, term, species = cells[GENE_COLUMNS[column]], cells[4], cells[12].partition("|")[0]
        if not gene or not term:
            problems.append(f"line {line}: no {'term' if gene else f'gene {column}'}")
        elif species != f"taxon:{taxon}":
            others[species].append(line)
        elif "NOT" not in cells[3].split("|"):
            pairs.setdefault((gene, term), line)
    problems += [
        f"line {lines[0]}: {species or 'no taxon'} ({len(lines):,} rows)"
        for species, lines in others.items()
    ]
    if problems or not pairs:
        raise InputError(
            f"{path}: expected rows of 15 to 17 columns with gene {column}, term and taxon:{taxon}",
            problems or ["no annotation"],
        )
    lines = pd.Index(pairs.values(), name="line")
    return pd.DataFrame(list(pairs), lines, ["gene", "term"], dtype=str)


def _parse(obo: str | os.PathLike, gaf: str | os.PathLike, taxon: int, column: str) -> GeneOntology:
    """Read both files and give every annotation its present term."""
    ontology, rows = read_obo(obo), read_gaf(gaf, taxon, column)
    rows["term"] = [ontology.aliases.get(term, term) for term in rows["term"]]
    unknown = rows["term"][~rows["term"].isin(ontology.terms.index)]
    if len(unknown):
        raise InputError(
            f"{gaf}: expected terms of {obo} that are not obsolete; take both files from one "
            "release",
            [f"line {line}: {term}" for line, term in unknown.items()],
        )
    return GeneOntology(ontology.terms, ontology.parents, rows.drop_duplicates(ignore_index=True))


def load_go(
    obo: str | os.PathLike,
    gaf: str | os.PathLike,
    cache: str | os.PathLike,
    taxon: int = 9606,
    column: str = "id",
) -> GeneOntology:
    """Read an ontology with its annotation, from the cache if these very files were parsed before.

    Parameters
    ----------
    obo, gaf, taxon, column
        As for `read_obo` and `read_gaf`.
    cache : path
        Folder for the parsed tables, as Parquet in a folder named by the SHA-256 of the input;
        unreadable ones are written anew.

    Raises
    ------
    InputError
        As `read_obo` and `read_gaf`, and if a file is absent or the GAF names a term that the OBO
        lacks.
    """
    absent = [str(path) for path in (obo, gaf) if not Path(path).is_file()]
    if absent:
        raise InputError("expected an OBO and a GAF file; not found:", absent)
    key = "\n".join([str(CACHE_FORMAT), sha256(obo), sha256(gaf), str(taxon), column])
    folder = Path(cache) / f"go-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    try:
        return GeneOntology(*(pd.read_parquet(folder / f"{name}.parquet") for name in TABLES))
    except (OSError, ArrowException):
        parsed = _parse(obo, gaf, taxon, column)
    with atomic(folder, "parsed ontology") as temporary:
        temporary.mkdir()
        for name in TABLES:
            getattr(parsed, name).to_parquet(temporary / f"{name}.parquet")
    return parsed


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
        The id of every gene of the library, in the naming of the GAF; repeats count once.
    namespace : str
        For GO biological_process, molecular_function or cellular_component.
    node_size : int
        Genes a term must have to be tested, 1 or more (topGO's nodeSize).

    Raises
    ------
    InputError
        If a gene has no id, the namespace does not exist, or no term in it has enough genes.
    """
    library, annotation = _ids(genes).drop_duplicates(), go.annotation
    terms = go.terms[go.terms["namespace"] == namespace].sort_index()
    if terms.empty:
        present = sorted(set(go.terms["namespace"]))
        raise InputError(f"the ontology has no namespace {namespace!r}; it has", present)
    rows = annotation[annotation["gene"].isin(library) & annotation["term"].isin(terms.index)]
    edges = go.parents[go.parents["child"].isin(terms.index)]
    mapped = pd.Index(sorted(set(rows["gene"])), dtype=str)
    children = _matrix(edges["parent"], edges["child"], terms.index, terms.index)
    members = _spread(children, _matrix(rows["term"], rows["gene"], terms.index, mapped))
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
    ids = _ids(genes)
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


def permuted(
    space: Universe,
    clusters: pd.Series,
    repeats: int = 20,
    seed: int = 0,
    fdr: float = 0.05,
    algorithms: Sequence[str] = ("classic", "elim"),
) -> pd.DataFrame:
    """Count clusters with an enriched term after dealing the genes to them at random.

    No term belongs to such clusters; about `fdr` of them should hold one nevertheless, or fewer.

    Returns
    -------
    DataFrame
        Indexed by algorithm, over all `repeats`: ``clusters``; ``any``, those with a term or more
        at `fdr`; ``share`` of them; ``limit``, `fdr` plus two binomial standard errors.
    """
    rng, counts = np.random.default_rng(seed), []
    for _ in range(repeats):
        dealt = pd.Series(rng.permutation(clusters.to_numpy()), clusters.index)
        counts.append(count_enriched(enrich_clusters(space, dealt, algorithms), dealt, fdr))
    total = sum(counts)[["clusters", "any"]]
    return total.assign(
        share=total["any"] / total["clusters"],
        limit=fdr + 2 * np.sqrt(fdr * (1 - fdr) / total["clusters"]),
    )
