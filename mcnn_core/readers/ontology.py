"""The Gene Ontology: terms from an OBO file, annotations from a GAF or gene2go, kept as tables.

The graph is GO.db's: is_a, part_of and the three regulates relations, within one namespace.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pyarrow import ArrowException
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from mcnn_core.errors import InputError
from mcnn_core.machine.files import atomic, first_few, sha256
from mcnn_core.readers.tables import decoded_text

#: edges next to is_a, as in GO.db
RELATIONS = ("part_of", "regulates", "positively_regulates", "negatively_regulates")
GENE_COLUMNS = {"id": 1, "symbol": 2}  #: columns of a GAF that can name the gene, counted from 0
SYNONYMS = 10  #: column of a GAF with the other names of a gene, counted from 0
UNKNOWN_SHARE = 0.5  #: of an annotation's terms that the ontology may lack; beyond, it is another's
#: of the cache, in the order of `GeneOntology`
TABLES = ("terms", "parents", "annotation", "names", "outdated")
CACHE_FORMAT = 2  #: another number makes every cache stale; raise it when parsing changes
CURRENT = pd.DataFrame({"term": [], "rows": [], "present": []})
NOBODY = pd.DataFrame({"name": [], "gene": []}, dtype=str)


@dataclass(frozen=True)
class Ontology:
    """The terms of an OBO file, obsolete ones left out.

    ``terms``, indexed by id, has ``name`` and ``namespace``; ``parents`` a row per edge, ``child``
    and ``parent``, ids of one namespace, free of cycles; ``aliases`` the term of each alt_id and of
    each obsolete term that one other term has replaced.
    """

    terms: pd.DataFrame
    parents: pd.DataFrame
    aliases: dict[str, str]


@dataclass(frozen=True)
class GeneOntology:
    """An ontology and the genes that carry its terms.

    Attributes
    ----------
    terms, parents : DataFrame
        Of the `Ontology`.
    annotation : DataFrame
        A row per ``gene`` and ``term``.
    names : DataFrame
        Where symbols name the genes: the ``gene`` that each ``name`` (in capitals) stands for, its
        symbol or a synonym that no other gene has.
    outdated : DataFrame
        ``term``, number of ``rows`` and ``present`` term of what the annotation names and the
        ontology has replaced; ``present`` is "" where the rows were left out.
    """

    terms: pd.DataFrame
    parents: pd.DataFrame
    annotation: pd.DataFrame
    names: pd.DataFrame = field(default_factory=NOBODY.copy)
    outdated: pd.DataFrame = field(default_factory=CURRENT.copy)


def _lines(path: str | os.PathLike) -> list[str]:
    """Return the lines of a text, plain or gzip, whatever its encoding and its line ends."""
    return decoded_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")


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


def incidence(rows: Iterable, columns: Iterable, index: pd.Index, names: pd.Index) -> csr_array:
    """Return the sparse bool matrix of `index` by `names` that is True at the pairs of labels."""
    places = index.get_indexer(rows), names.get_indexer(columns)
    return csr_array((np.ones(len(places[0]), bool), places), shape=(len(index), len(names)))


def _cycles(terms: pd.Index, parents: pd.DataFrame) -> list[str]:
    """Return one line for each set of terms that are their own ancestors."""
    edges = incidence(parents["child"], parents["parent"], terms, terms)
    _, group = connected_components(edges, connection="strong")
    knotted = (np.bincount(group)[group] > 1) | edges.diagonal()
    sets = [list(ids) for _, ids in terms[knotted].to_series().groupby(group[knotted])]
    return [
        ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "") for ids in sets
    ]


def _followed(aliases: dict[str, str], terms: Container[str]) -> dict[str, str]:
    """Return the present term at the end of each chain of aliases; without one it is no alias."""
    ends = {}
    for alias in aliases:
        term, passed = alias, set()
        while term not in terms and term not in passed and term in aliases:
            passed.add(term)
            term = aliases[term]
        ends[alias] = term
    return {alias: term for alias, term in ends.items() if alias != term and term in terms}


def read_obo(path: str | os.PathLike) -> Ontology:
    """Read an OBO file (1.2 or 1.4, also gzip).

    Edges are is_a and `RELATIONS`; those to another namespace are dropped, as GO.db has one graph
    per namespace. A term without a name is called by its id. An obsolete term with one
    ``replaced_by`` is that term; ``consider`` only suggests others and is not followed.

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
        term = _id("".join(tags["id"][:1]))
        if kind == "[Term]" and "true" in tags["is_obsolete"]:
            if len(tags["replaced_by"]) == 1:
                aliases[term] = _id(tags["replaced_by"][0])
        elif kind == "[Term]":
            if not term or term in terms:
                problems.append(f"line {line}: {f'{term} is defined twice' if term else 'no id'}")
            terms[term] = ((tags["name"] or [term])[0], (tags["namespace"] or [namespace])[0])
            aliases |= {_id(alias): term for alias in tags["alt_id"]}
            related = [_id(text, 1) for text in tags["relationship"] if _id(text) in RELATIONS]
            edges += [(term, up, line) for up in [_id(text) for text in tags["is_a"]] + related]
    aliases = _followed(aliases, terms)
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


class _Association(NamedTuple):
    """What a row says; ``synonyms`` are joined by "|"."""

    gene: str
    term: str
    taxon: str
    denied: bool
    synonyms: str


def _of_gaf(cells: list[str], column: str) -> _Association | None:
    """Return what a row of a GAF says, None where it has not 15 to 17 columns."""
    if not 15 <= len(cells) <= 17:
        return None
    species, denied = cells[12].partition("|")[0], "NOT" in cells[3].split("|")
    return _Association(cells[GENE_COLUMNS[column]], cells[4], species, denied, cells[SYNONYMS])


def _of_gene2go(cells: list[str], _: str) -> _Association | None:
    """Return what a row of gene2go says, None where it has not 8 columns."""
    if len(cells) != 8:
        return None
    denied = "NOT" in re.split("[ |]", cells[4])
    gene = re.sub(r"\.0+$", "", cells[1])  # as pandas writes numbers of a column with a gap
    return _Association(gene, cells[2], f"taxon:{cells[0]}", denied, "")


def _associations(
    path: str | os.PathLike, species: str, column: str
) -> Iterator[tuple[int, _Association | str]]:
    """Yield each line with what it says or what is wrong with it; of gene2go, those of a species.

    The first row tells which of the two formats a file has.
    """
    read: Callable | None = None
    for line, text in enumerate(_lines(path), 1):
        if not text.strip() or text.startswith(("!", "#", "tax_id\t")):
            continue
        cells = [cell.strip() for cell in text.split("\t")]
        read = read or (_of_gene2go if len(cells) == 8 else _of_gaf)
        if read is _of_gene2go and column != "id":
            raise InputError(
                f"{path} is NCBI's gene2go, which names genes by Entrez id: expected gaf_column=id"
            )
        one = read(cells, column)
        if one is None:
            yield line, f"{len(cells)} columns"
        elif not one.gene or not one.term:
            yield line, f"no {'term' if one.gene else f'gene {column}'}"
        elif read is _of_gaf or one.taxon == species:
            yield line, one


def _symbol_names(genes: set[tuple[str, str]]) -> pd.DataFrame:
    """Return the names, in capitals, of one gene only, from pairs of symbol and synonyms."""
    symbols, synonyms = defaultdict(set), defaultdict(set)
    for symbol, others in genes:
        symbols[symbol.upper()].add(symbol)
        for name in others.upper().split("|"):
            synonyms[name.strip()].add(symbol)
    carriers = synonyms | symbols  # what is a symbol is no synonym
    pairs = [(name, *found) for name, found in carriers.items() if name and len(found) == 1]
    return pd.DataFrame(sorted(pairs), columns=["name", "gene"], dtype=str)


def read_associations(
    path: str | os.PathLike, taxon: int = 9606, column: str = "id"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a GAF file (1.0 to 2.2) or NCBI's gene2go, also gzip, without the NOT rows.

    Parameters
    ----------
    path : path
    taxon : int
        NCBI's number of the species; 9606 is human. gene2go has all species, and the others are
        passed over.
    column : {"id", "symbol"}
        What names the gene: DB Object ID (column 2 of a GAF; the Entrez id of gene2go) or DB Object
        Symbol (column 3 of a GAF).

    Returns
    -------
    annotation : DataFrame
        ``gene`` and ``term``, each pair once; indexed by the line it stands in first.
    names : DataFrame
        As in `GeneOntology`; without rows where ids name the genes.

    Raises
    ------
    InputError
        If it cannot be read, has no annotation, or rows with too few columns, no gene, no term or
        (in a GAF) another species; if symbols are asked of gene2go.
    """
    if column not in GENE_COLUMNS:
        raise InputError(f"column must be one of {', '.join(GENE_COLUMNS)}, got {column!r}")
    wanted = f"taxon:{taxon}"
    pairs: dict[tuple[str, str], int] = {}
    genes: set[tuple[str, str]] = set()
    problems, others = [], defaultdict(list)
    for line, one in _associations(path, wanted, column):
        if isinstance(one, str):
            problems.append(f"line {line}: {one}")
        elif one.taxon != wanted:
            others[one.taxon].append(line)
        else:
            genes.add((one.gene, one.synonyms))
            if not one.denied:
                pairs.setdefault((one.gene, one.term), line)
    problems += [
        f"line {lines[0]}: {species or 'no taxon'} ({len(lines):,} rows)"
        for species, lines in others.items()
    ]
    if problems or not pairs:
        raise InputError(
            f"{path}: expected rows of 15 to 17 columns (GAF) or 8 (gene2go) with gene {column}, "
            f"term and {wanted}",
            problems or [f"no annotation of {wanted}"],
        )
    lines = pd.Index(pairs.values(), name="line")
    annotation = pd.DataFrame(list(pairs), lines, ["gene", "term"], dtype=str)
    return annotation, _symbol_names(genes) if column == "symbol" else NOBODY.copy()


def _outdated(
    rows: pd.DataFrame, ontology: Ontology, obo: str | os.PathLike, gaf: str | os.PathLike
) -> pd.DataFrame:
    """Return the terms of an annotation that are none of the ontology, as in `GeneOntology`."""
    terms = rows["term"].drop_duplicates()
    old = terms[~terms.isin(ontology.terms.index)]
    present = old.map(ontology.aliases).fillna("")
    unknown = old[present == ""]
    if len(unknown) > UNKNOWN_SHARE * len(terms):
        raise InputError(
            f"{gaf}: {len(unknown):,} of its {len(terms):,} terms are unknown to {obo}, or obsolete"
            " without one that replaces them; take both files of one ontology and one release",
            [f"line {line}: {term}" for line, term in unknown.items()],
        )
    counts = old.map(rows["term"].value_counts())
    return pd.DataFrame({"term": old, "rows": counts, "present": present}).reset_index(drop=True)


def _parse(obo: str | os.PathLike, gaf: str | os.PathLike, taxon: int, column: str) -> GeneOntology:
    """Read both files and give every annotation its present term."""
    ontology, (rows, names) = read_obo(obo), read_associations(gaf, taxon, column)
    outdated = _outdated(rows, ontology, obo, gaf)
    present = dict(zip(outdated["term"], outdated["present"], strict=True))
    rows["term"] = [present.get(term, term) for term in rows["term"]]
    rows = rows[rows["term"] != ""].drop_duplicates(ignore_index=True)
    return GeneOntology(ontology.terms, ontology.parents, rows, names, outdated)


def outdated_terms(go: GeneOntology) -> list[str]:
    """Say how many rows of an annotation were read as those of other terms, or left out."""
    kept = go.outdated["present"] != ""
    kinds = {
        "read as those of the terms that have replaced theirs": go.outdated[kept],
        "left out, as their terms are obsolete or unknown": go.outdated[~kept],
    }
    return [
        f"Rows of the annotation {what}: {part['rows'].sum():,} ({first_few([*part['term']])})"
        for what, part in kinds.items()
        if len(part)
    ]


def load_go(
    obo: str | os.PathLike,
    gaf: str | os.PathLike,
    cache: str | os.PathLike,
    taxon: int = 9606,
    column: str = "id",
) -> GeneOntology:
    """Read an ontology with its annotation, from the cache if these very files were parsed before.

    Annotations of terms that have been replaced since are those of the present terms; those of
    terms that are obsolete or unknown are left out. Both are printed.

    Parameters
    ----------
    obo, gaf, taxon, column
        As for `read_obo` and `read_associations`.
    cache : path
        Folder for the parsed tables, as Parquet in a folder named by the SHA-256 of the input;
        unreadable ones are written anew.

    Raises
    ------
    InputError
        As `read_obo` and `read_associations`, if a file is absent, and if the ontology lacks more
        than `UNKNOWN_SHARE` of the annotation's terms.
    """
    absent = [str(path) for path in (obo, gaf) if not Path(path).is_file()]
    if absent:
        raise InputError("expected an OBO and a GAF file; not found:", absent)
    key = "\n".join([str(CACHE_FORMAT), sha256(obo), sha256(gaf), str(taxon), column])
    folder = Path(cache) / f"go-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    try:
        go = GeneOntology(*(pd.read_parquet(folder / f"{name}.parquet") for name in TABLES))
    except (OSError, ArrowException):
        go = _parse(obo, gaf, taxon, column)
        with atomic(folder, "parsed ontology") as temporary:
            temporary.mkdir()
            for name in TABLES:
                getattr(go, name).to_parquet(temporary / f"{name}.parquet")
    for line in outdated_terms(go):
        print(line)
    return go
