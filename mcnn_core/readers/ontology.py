"""The Gene Ontology: terms from an OBO file, annotations from a GAF, both kept as tables.

The graph is GO.db's: is_a, part_of and the three regulates relations, within one namespace.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow import ArrowException
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from mcnn_core.errors import InputError
from mcnn_core.machine.files import atomic, read_text, sha256

#: edges beside is_a, as in GO.db
RELATIONS = ("part_of", "regulates", "positively_regulates", "negatively_regulates")
GENE_COLUMNS = {"id": 1, "symbol": 2}  #: columns of a GAF that can name the gene, counted from 0
TABLES = ("terms", "parents", "annotation")  #: of the cache, in the order of `GeneOntology`
CACHE_FORMAT = 1  #: another number makes every cache stale; raise it when parsing changes


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
