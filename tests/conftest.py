"""Shared fixtures, and how the tests are spread over processes.

Real data is never part of the repository; tests that need it skip without it.
"""

import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import pytest

from mcnn_core.readers.bbbc021 import read_bbbc021
from mcnn_core.readers.ontology import GeneOntology, load_go

ROOT = Path(__file__).resolve().parents[1]
#: The files that take longest, longest first: they are begun first, so that no process is left
#: alone with one of them at the end, and ``make test QUICK=1`` leaves them out.
LONG = (
    "test_faults.py",
    "test_browser.py",
    "test_own_plates.py",
    "test_book.py",
    "test_pipeline.py",
    "test_study.py",
    "test_run.py",
    "test_benchmarks.py",
    "test_choosing.py",
    "test_cluster.py",
    "test_state.py",
    "test_agreement.py",
    "test_train.py",
    "test_enrichment.py",
    "test_doctor.py",
    "test_parallel.py",
    "test_features.py",
    "test_preprocess.py",
    "test_download.py",
    "test_folders.py",
    "test_fuzz.py",
    "test_gpu_command.py",
    "test_neighbors.py",
    "test_real_plates.py",
    "test_features_tables.py",
    "test_install.py",
    "test_kimorph.py",
    "test_simulate.py",
    "test_cases.py",
    "test_ownership.py",
    "test_workspace.py",
    "test_makefile.py",
)
#: Processes at most: each takes about 1 GB.
PROCESSES = 8


def pytest_xdist_auto_num_workers() -> int:
    """Return as many processes as there are cores, two at least: some tests wait."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(max(cores or 2, 2), PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first and mark what is in them as slow."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    for item in items:
        if item.path.name in place:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def bbbc021(shared_data) -> Callable:
    """Return `read_bbbc021` of the real tables, 13,200 rows, which are read once."""
    return lru_cache(partial(read_bbbc021, shared_data / "bbbc021" / "metadata"))


@pytest.fixture(scope="session")
def gene_ontology(shared_data, tmp_path_factory) -> GeneOntology:
    """Return the real Gene Ontology and its human annotation, parsed once for all processes."""
    base, folder = tmp_path_factory.getbasetemp(), shared_data / "go"
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ontology"
    return load_go(folder / "go-2022-07-01.obo.gz", folder / "goa_human_entrez.gaf.gz", cache)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real samples, or a skip that says it is absent."""
    folder = Path(os.environ.get("MCNN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"shared data absent: {folder}")
    return folder
