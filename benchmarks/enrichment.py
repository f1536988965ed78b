"""Seconds to parse an ontology, to read the parse from the cache, and to enrich 27 clusters.

    OMP_NUM_THREADS=1 python benchmarks/enrichment.py [--obo FILE --gaf FILE] [--library FILE]

Without files the ontology is made here, of the size of the real one (43,558 terms, 348,116 rows). The library is a text
with one gene id a line, or else 777 genes of the GAF drawn at random; its genes are dealt to the clusters at random.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from mcnn_core.enrichment import ALGORITHMS, count_enriched, enrich_clusters, load_go, universe

TERMS, ROWS, GENES, LIBRARY, CLUSTERS = 43_558, 348_116, 20_000, 777, 27


def write_ontology(folder: Path) -> tuple[Path, Path]:
    """Write an OBO whose terms have one or two parents and, as in GO, some 15 levels, and a GAF."""
    rng = np.random.default_rng(0)
    with open(folder / "made.obo", "w") as obo:
        for term in range(TERMS):
            parents = {int(term * share) for share in rng.uniform(0.2, 0.8, rng.integers(1, 3))} - {term}
            obo.write(f"\n[Term]\nid: T:{term}\nname: term {term}\nnamespace: biological_process\n")
            obo.writelines(f"is_a: T:{parent}\n" for parent in parents)
    with open(folder / "made.gaf", "w") as gaf:
        for gene, term in zip(rng.integers(1, GENES, ROWS), (TERMS * rng.power(0.7, ROWS)).astype(int)):
            cells = ["X", str(gene), f"G{gene}", "", f"T:{term}", "", "IEA", "", "P", "", "", "protein", "taxon:9606", "", "", "", ""]
            gaf.write("\t".join(cells) + "\n")
    return folder / "made.obo", folder / "made.gaf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--obo", type=Path)
    parser.add_argument("--gaf", type=Path)
    parser.add_argument("--library", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        obo, gaf = (options.obo, options.gaf) if options.obo and options.gaf else write_ontology(folder)
        took, clock = {}, time.perf_counter()
        go = load_go(obo, gaf, folder / "cache")
        took["parse"], clock = time.perf_counter() - clock, time.perf_counter()
        go = load_go(obo, gaf, folder / "cache")
        took["cached parse"] = time.perf_counter() - clock
    rng, genes = np.random.default_rng(0), go.annotation["gene"].drop_duplicates()
    library = options.library.read_text().split() if options.library else rng.choice(genes, LIBRARY, replace=False)
    clusters = pd.Series(rng.integers(1, CLUSTERS + 1, len(library)), library)
    clock = time.perf_counter()
    space = universe(go, library)
    took["universe"], total = time.perf_counter() - clock, time.perf_counter() - clock
    for algorithm in ALGORITHMS:
        clock = time.perf_counter()
        counts = count_enriched(enrich_clusters(space, clusters, [algorithm]), clusters)
        took[algorithm] = time.perf_counter() - clock
        total += took[algorithm]
    print(f"{len(go.terms):,} terms, {len(go.annotation):,} annotations; {len(space.genes)} genes, {len(space.unmapped)} unmapped; "
          f"{len(space.terms):,} terms tested in {counts['clusters'].iloc[0]} clusters")
    for step, seconds in took.items():
        print(f"{step:14s} {seconds:7.2f} s")
    print(f"enrichment after the parse, universe and all algorithms: {total:.2f} s")


if __name__ == "__main__":
    main()
