"""The cases of ``make bench``: who runs what at which size.

A contestant is a function of the folder of inputs and the case. It prepares, and returns what is to
be timed together with facts for the record. What is timed may return seconds of its own (of the
part that counts), or a dict with "seconds" and more. Heavy imports happen inside, so that a process
holds only what its contestant needs.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import made, textbook

CORES = len(os.sched_getaffinity(0))
#: Contestants that are packages of others, named like them and left out where they are absent.
PEERS = ("pycytominer",)
WELL = ["Metadata_Plate", "Metadata_Well"]
Contestant = Callable[[Path, "Case"], tuple[Callable[[], Any], dict[str, Any]]]


@dataclass(frozen=True)
class Case:
    """One stage at one size.

    Attributes
    ----------
    stage, case, unit : str
        What is done, at which size, and what one counts.
    units : int
        How many of them one repeat does.
    prepare : function
        Writes what the contestants read into the folder of inputs, if it is not there.
    contestants : dict of str to function
        "ours"; "textbook" and others next to it, some of them `PEERS`; "raw" moves the same bytes
        and does nothing else.
    work : float
        Of one unit, in what the time of this stage follows (`mcnn_book.check.cost`); 0: the
        contestant says ("macs").
    load : float
        What one process holds at once, in what its memory follows.
    fields, height, width : int
        Of the raw fields, or 0.
    network : str
    batch, epochs : int
        Of the training.
    bound : str
        What the limit is: "raw", "product" (of matrices), "distances", "pass" (over a table) or "".
    repeats : int
    warm : bool
        Run once untimed first.
    """

    stage: str
    case: str
    unit: str
    units: int
    prepare: Callable[[Path, "Case"], None]
    contestants: dict[str, Contestant]
    work: float = 0.0
    load: float = 1.0
    fields: int = 0
    height: int = 0
    width: int = 0
    network: str = ""
    batch: int = 0
    epochs: int = 3
    bound: str = ""
    repeats: int = 5
    warm: bool = True
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What no other case is called."""
        return f"{self.stage}, {self.case}"


def _raw_folder(folder: Path, case: Case) -> Path:
    return folder / f"raw-{case.height}"


def prepare_nothing(folder: Path, case: Case) -> None:
    """Need no input."""


def prepare_raw(folder: Path, case: Case) -> None:
    """Write the raw fields."""
    if not _raw_folder(folder, case).exists():
        made.write_fields(_raw_folder(folder, case), case.more["raw"], case.height, case.width)


def prepare_store(folder: Path, case: Case) -> None:
    """Write the raw fields and pre-process them."""
    from mcnn_core.preprocessing import preprocess

    prepare_raw(folder, case)
    if not (folder / f"store-{case.height}").exists():
        preprocess(
            made.read_fields(_raw_folder(folder, case)),
            folder / f"store-{case.height}",
            progress=False,
        )


def prepare_ontology(folder: Path, case: Case) -> None:
    """Write the ontology and parse it once."""
    if not (folder / "go").exists():
        made.write_ontology(folder / "go", *case.more["ontology"])
        made.read_library(folder / "go", case.more["genes"])


# ------------------------------------------------------------------------- pixels


def _screen(folder: Path, case: Case):
    return made.read_fields(_raw_folder(folder, case), case.fields)


def simulate_ours(folder: Path, case: Case):
    """Draw and write a screen, on all cores."""
    from mcnn_book.simulate.bbbc021 import simulate_screen

    layout = made.few_wells(case.more["sites"])
    return lambda: simulate_screen(
        folder / "simulated", 0, layout, case.height, case.width, workers=CORES, progress=False
    ), {"processes": CORES}


def simulate_textbook(folder: Path, case: Case):
    """Draw and write the same fields in one process."""
    (folder / "simulated-plainly").mkdir(exist_ok=True)
    return lambda: textbook.simulate(
        folder / "simulated-plainly", 0, made.few_wells(case.more["sites"]), case.height, case.width
    ), {}


def simulate_raw(folder: Path, case: Case):
    """Write as many bytes into as many files."""
    image, target = bytes(2 * case.height * case.width), folder / "written"
    target.mkdir(exist_ok=True)
    return lambda: [(target / f"{i}.tif").write_bytes(image) for i in range(3 * case.units)], {}


def read_ours(folder: Path, case: Case):
    """Read fields one after another, checked."""
    from mcnn_core.readers.images import read_field

    screen = _screen(folder, case)
    return lambda: [read_field(screen, row).shape for row in range(case.fields)], {}


def read_textbook(folder: Path, case: Case):
    """Read fields one after another."""
    screen = _screen(folder, case)
    return lambda: [textbook.read(screen, [row])[0].shape for row in range(case.fields)], {}


def _read_bytes(screen) -> None:
    from mcnn_core.readers.images import image_paths

    for paths in image_paths(screen):
        for path in paths:
            Path(path).read_bytes()


def read_raw(folder: Path, case: Case):
    """Read the bytes of the files."""
    screen = _screen(folder, case)
    return lambda: _read_bytes(screen), {}


def preprocess_ours(folder: Path, case: Case, workers: int = CORES):
    """Write the 8-bit store, on all cores."""
    from mcnn_core.preprocessing import preprocess

    screen, out = _screen(folder, case), folder / f"ours-{workers}"
    return lambda: preprocess(screen, out, workers=workers, progress=False), {"threads": workers}


def preprocess_one_core(folder: Path, case: Case):
    """Write the 8-bit store, on one core."""
    return preprocess_ours(folder, case, 1)


def preprocess_textbook(folder: Path, case: Case):
    """Keep the plate as floats."""
    screen = _screen(folder, case)
    return lambda: textbook.preprocess(screen, folder / "plain.npy"), {}


def preprocess_raw(folder: Path, case: Case):
    """Read the bytes of the files once and write as many as the store has."""
    screen, store = _screen(folder, case), bytes(3 * case.height * case.width * case.fields)

    def run() -> None:
        _read_bytes(screen)
        (folder / "written.bin").write_bytes(store)

    return run, {}


# ------------------------------------------------------------------------- the network


def _store(folder: Path, case: Case):
    from mcnn_core.store import Store

    return Store.open(folder / f"store-{case.height}")


def _labels(store, case: Case) -> np.ndarray:
    rows = np.arange(len(store.pixels))
    return np.where(rows < case.fields, rows % min(made.CLASSES, case.fields), -1)


def _recipe(case: Case):
    from mcnn_core.training import RECIPES

    return replace(RECIPES[case.network], batch=case.batch, epochs=case.epochs)


def _facts(model, case: Case, precision: str) -> dict[str, Any]:
    from mcnn_book.check.cost import training_macs
    from mcnn_core.model import macs

    count = training_macs(model) * _recipe(case).crop ** 2 if case.stage == "train" else macs(model)
    return {"precision": precision, "macs": count, "network": case.network}


def _native() -> str:
    from mcnn_core.machine.device import bfloat16

    return "bfloat16" if bfloat16() else "float32"


def train_ours(folder: Path, case: Case, precision: str = "auto"):
    """Train for some epochs and count all but the first."""
    from mcnn_core.model import CONFIGS
    from mcnn_core.training import train, untrained_model

    store = _store(folder, case)
    labels, recipe = _labels(store, case), replace(_recipe(case), precision=precision)

    def run() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            return float(
                train(store, labels, CONFIGS[case.network], recipe, out, progress=False)["seconds"]
                .iloc[1:]
                .sum()
            )

    model = untrained_model(store, labels, CONFIGS[case.network])
    return run, _facts(model, case, _native() if precision == "auto" else precision)


def train_float32(folder: Path, case: Case):
    """Train in float32."""
    return train_ours(folder, case, "float32")


def train_busy(folder: Path, case: Case):
    """Train beside so many busy processes as the case says."""
    train, facts = train_ours(folder, case)
    spin = [sys.executable, "-c", "while True: pass"]

    def run() -> float:
        busy = [subprocess.Popen(spin) for _ in range(case.more["busy"])]
        try:
            return train()
        finally:
            for process in busy:
                process.kill()
                process.wait()

    return run, facts | {"busy": case.more["busy"]}


def train_textbook(folder: Path, case: Case):
    """Take as many steps by the usual loop."""
    from benchmarks.plain_network import Training
    from mcnn_core.model import CONFIGS
    from mcnn_core.training import untrained_model

    store = _store(folder, case)
    labels = _labels(store, case)
    model = untrained_model(store, labels, CONFIGS[case.network])
    loop = Training(
        model,
        store.pixels[: case.fields],
        labels[: case.fields],
        _recipe(case),
        case.units // case.batch,
    )
    return loop.run, {"workers": loop.workers, "precision": "float32"}


def _untrained(folder: Path, case: Case):
    from mcnn_core.model import CONFIGS
    from mcnn_core.training import untrained_model

    store = _store(folder, case)
    return store, untrained_model(store, _labels(store, case), CONFIGS[case.network])


def embed_ours(folder: Path, case: Case):
    """Send fields through the network."""
    from mcnn_core.features import embed

    store, model = _untrained(folder, case)
    return lambda: embed(model, store, range(case.fields), progress=False), _facts(
        model, case, _native()
    )


def embed_textbook(folder: Path, case: Case):
    """Send fields through the network, in float32."""
    from benchmarks.plain_network import Embedding

    store, model = _untrained(folder, case)
    fields = Embedding(model, store.pixels[: case.fields], case.batch)
    return fields.run, {"workers": fields.workers, "precision": "float32"}


# ------------------------------------------------------------------------- tables


def profiles_ours(folder: Path, case: Case):
    """Take features to principal components and medians."""
    from mcnn_core.profiles import profile

    features = made.random_features(case.more["plates"])
    return lambda: profile(features), {}


def medians_ours(folder: Path, case: Case):
    """Take the medians of wells alone."""
    from mcnn_core.profiles import aggregate

    features = made.random_features(case.more["plates"])
    return lambda: aggregate(features, WELL), {}


def medians_pycytominer(folder: Path, case: Case):
    """Do the same with pycytominer."""
    import pycytominer

    from mcnn_core.profiles import feature_columns

    features = made.random_features(case.more["plates"])
    given = {"strata": WELL, "features": feature_columns(features), "operation": "median"}
    return lambda: pycytominer.aggregate(features, **given), {"version": version("pycytominer")}


def _profiles(case: Case) -> np.ndarray:
    """Return wells of a hundred treatments.

    Points of one cloud without any structure join one by one, which takes leaf ordering many times
    as long.
    """
    rng = np.random.default_rng(0)
    return rng.normal(size=(100, 128))[np.arange(case.more["profiles"]) % 100] + rng.normal(
        size=(case.more["profiles"], 128)
    )


def distances_ours(folder: Path, case: Case):
    """Compare all profiles with all, join them into a tree, order its leaves."""
    from mcnn_core.analysis.clusters import tree
    from mcnn_core.analysis.distances import cosine_distances

    profiles = _profiles(case)
    return lambda: tree(cosine_distances(profiles)), {}


def distances_textbook(folder: Path, case: Case):
    """Do the same with SciPy alone."""
    profiles = _profiles(case)
    return lambda: textbook.ordered_tree(profiles), {}


def _cluster(folder: Path, case: Case):
    space, clusters = made.read_library(folder / "go", case.more["genes"])
    return space, clusters.index[clusters == clusters.iloc[0]]


def enrichment_ours(folder: Path, case: Case):
    """Test every term for one cluster, each by itself."""
    from mcnn_core.analysis.enrichment import enrich

    space, genes = _cluster(folder, case)
    return lambda: enrich(space, genes, "classic"), {
        "terms": len(space.terms),
        "bytes": int(space.members.data.nbytes + space.members.indices.nbytes),
    }


def enrichment_textbook(folder: Path, case: Case):
    """Test every term by a table of 2 x 2."""
    space, genes = _cluster(folder, case)
    members, chosen = space.members.toarray(), np.asarray(space.genes.isin(genes))
    return lambda: textbook.fisher(members, chosen), {}


def ontology_ours(folder: Path, case: Case):
    """Parse, parse from the cache, and enrich all clusters by every algorithm."""
    from mcnn_core.analysis.enrichment import ALGORITHMS, enrich_clusters
    from mcnn_core.readers.ontology import load_go

    def run() -> dict[str, float]:
        clock = Laps()
        with tempfile.TemporaryDirectory() as cache:
            for name in ("parse", "cached"):
                load_go(folder / "go/made.obo", folder / "go/made.gaf", cache)
                clock.lap(name)
        space, clusters = made.read_library(folder / "go", case.more["genes"])
        clock.lap("universe")
        for algorithm in ALGORITHMS:
            enrich_clusters(space, clusters, [algorithm])
            clock.lap(algorithm)
        return clock.took | {"seconds": sum(clock.took.values())}

    return run, {}


class Laps:
    """Seconds of one step after another."""

    def __init__(self):
        self.took, self.clock = {}, time.perf_counter()

    def lap(self, name: str) -> None:
        """Note the seconds since the last lap."""
        now = time.perf_counter()
        self.took[name], self.clock = now - self.clock, now


def discovery_ours(folder: Path, case: Case):
    """Make every table and figure of chapters 9 to 12 from features."""
    import matplotlib.pyplot as plt

    from mcnn_book import figures, interactive, pictures
    from mcnn_book.results import cluster_names, unannotated_tops
    from mcnn_book.sheets import novel_sheet, suspect_sheet, thumbnails
    from mcnn_book.study.study import discover
    from mcnn_core.analysis.clusters import cluster_table
    from mcnn_core.analysis.response import effects, similarities
    from mcnn_core.machine.files import write_table
    from mcnn_core.profiles import profile

    plt.switch_backend("agg")
    features = made.random_features(case.more["plates"])
    table = features[
        [name for name in features if name.startswith("Metadata_") and name != "Metadata_Training"]
    ]
    pixels = np.broadcast_to(
        np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8),
        (len(table), 128, 160, 3),
    )

    class Pictures:
        """As much of a store as figures ask for."""

    Pictures.pixels = pixels

    def run() -> dict[str, float]:
        clock, out = Laps(), folder / "discovery"
        out.mkdir(exist_ok=True)
        wells, treatments = profile(features)
        clock.lap("profiles")
        tables = discover(wells, treatments)
        clock.lap("analyses")
        for name, frame in tables.items():
            write_table(out / f"{name}.csv", frame)
        clock.lap("tables")
        like, points, potency = similarities(wells), tables["curves"], tables["potency"]
        clusters, distances = cluster_table(treatments)
        rows = potency.set_index("compound", drop=False).loc
        drawn = [
            lambda ax: figures.similarity_heat(ax, unannotated_tops(wells, like)),
            lambda ax: figures.potency_intervals(ax, potency),
            lambda ax: figures.ordered_matrix(ax, distances, clusters["cluster"]),
            lambda ax: figures.novelty_map(ax, tables["novel"]),
        ]
        for name in potency["compound"].head(4):
            drawn += [
                lambda ax, name=name: figures.response_curves(
                    ax, points[points["compound"] == name]
                ),
                lambda ax, name=name: figures.dose_effect(ax, *effects(wells, name), rows[name]),
            ]
        for groups, titles in (
            novel_sheet(table, tables["novel"]),
            suspect_sheet(table, tables["suspects"]),
        ):
            shown = pictures.in_grey(pictures.of(pixels, groups))
            drawn += [
                lambda ax, shown=shown, titles=titles: figures.contact_sheet(ax, shown, titles)
            ] * (len(shown) > 0)
        for number, draw in enumerate(drawn):
            figure, ax = plt.subplots(figsize=(7.2, 6), layout="constrained")
            draw(ax)
            figure.savefig(out / f"{number}.png")
            plt.close(figure)
        clock.lap("figures")
        pages = [
            interactive.table(tables["similarity"]),
            interactive.curves(points, potency),
            interactive.matrix(
                distances, cluster_names(clusters), thumbnails(Pictures, table, clusters)
            ),
        ]
        (out / "interactive.html").write_text(
            "".join(page._repr_html_() for page in pages), encoding="utf-8"
        )
        clock.lap("interactive")
        return clock.took | {"seconds": sum(clock.took.values())}

    return run, {"fields": len(table)}


# ------------------------------------------------------------------------- the machine


def base_ours(folder: Path, case: Case):
    """Load the package and do nothing: what every process holds."""
    import mcnn_book.screens  # noqa: F401

    return lambda: None, {}


def machine_ours(folder: Path, case: Case):
    """Measure how fast this machine copies and multiplies.

    It does so on the threads that torch takes by default.
    """
    import torch

    size, n = case.more["copy"], case.more["product"]
    source, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    pairs = {
        kind: torch.rand(2, n, n).to(getattr(torch, kind))
        for kind in ("float32", "bfloat16", "float64")
    }

    def fastest(action: Callable[[], Any]) -> float:
        times = []
        for _ in range(4):
            start = time.perf_counter()
            action()
            times.append(time.perf_counter() - start)
        return min(times)

    def run() -> dict[str, float]:
        found = {"copy": size / fastest(lambda: target.copy_(source))}
        return found | {
            kind: 2 * n**3 / fastest(lambda one=one, two=two: one @ two)
            for kind, (one, two) in pairs.items()
        }

    return run, {"threads": torch.get_num_threads()}


# ------------------------------------------------------------------------- the list


def all_cases(quick: bool = False) -> list[Case]:
    """Return the cases in the order of the road.

    `quick`: the same at sizes that take no time, for a test.
    """
    sizes = [(64, 96)] if quick else [(128, 160), (512, 640), (1024, 1280)]
    raw = {64: 16, 128: 4 if quick else 256, 512: 64, 1024: 8}
    once = {"repeats": 2 if quick else 5}
    cases = []
    for height, width in sizes:
        label, grey = f"{height} x {width}", 3 * height * width
        here = {"height": height, "width": width, "work": grey, "load": grey, **once}
        sites = {64: 1, 128: 96, 512: 12, 1024: 4}[height]
        wells = len(made.few_wells(sites).wells())
        cases.append(
            Case(
                "simulate",
                label,
                "field",
                wells * sites,
                prepare_nothing,
                {"ours": simulate_ours, "textbook": simulate_textbook, "raw": simulate_raw},
                bound="raw",
                more={"sites": sites},
                warm=False,
                **here | {"repeats": 2 if quick or height > 500 else 3},
            )
        )
        many = {64: 8, 128: 256, 512: 24, 1024: 8}[height]
        here |= {"fields": many, "more": {"raw": raw[height]}}
        cases.append(
            Case(
                "read",
                label,
                "field",
                many,
                prepare_raw,
                {"ours": read_ours, "textbook": read_textbook, "raw": read_raw},
                bound="raw",
                **here,
            )
        )
        cases.append(
            Case(
                "preprocess",
                label,
                "field",
                many,
                prepare_raw,
                {
                    "ours": preprocess_ours,
                    "one_core": preprocess_one_core,
                    "textbook": preprocess_textbook,
                    "raw": preprocess_raw,
                },
                bound="raw",
                **here,
            )
        )
    networks = (
        [("default", 64, 96, 4, 16), ("published", 128, 128, 2, 4)]
        if quick
        else [
            ("default", 128, 160, 32, 256),
            ("default", 512, 640, 32, 64),
            ("published", 1024, 1280, 2, 4),
        ]
    )
    for network, height, width, batch, fields in networks:
        crop, epochs = 1.0 if network == "published" else 0.5, 2 if height > 1000 else 3
        common = {
            "fields": fields,
            "height": height,
            "width": width,
            "network": network,
            "bound": "product",
            "more": {"raw": raw[height], "busy": 1 if quick else 2 * CORES},
        }
        repeats = 2 if quick or height > 1000 else 4
        busy = {"busy": train_busy} if height < 500 and network == "default" else {}
        cases.append(
            Case(
                "train",
                f"{height} x {width}",
                "field",
                (epochs - 1) * fields,
                prepare_store,
                {"ours": train_ours, "float32": train_float32, "textbook": train_textbook} | busy,
                load=batch * 3 * height * width * crop**2,
                batch=batch,
                epochs=epochs,
                warm=False,
                repeats=repeats,
                **common,
            )
        )
        at_once = max(1, min(64, 2**21 // (height * width)))
        cases.append(
            Case(
                "embed",
                f"{height} x {width}",
                "field",
                fields,
                prepare_store,
                {"ours": embed_ours, "textbook": embed_textbook},
                load=at_once * 3 * height * width,
                batch=min(batch, fields),
                repeats=repeats,
                **common,
            )
        )
    for plates in (2, 8) if quick else (14, 56):
        cases.append(
            Case(
                "profiles",
                f"{240 * plates:,} fields",
                "run",
                1,
                prepare_nothing,
                {"ours": profiles_ours},
                work=240 * plates,
                load=240 * plates,
                more={"plates": plates},
                **once,
            )
        )
    plates = 2 if quick else 56
    cases.append(
        Case(
            "medians",
            f"{240 * plates:,} fields",
            "run",
            1,
            prepare_nothing,
            {"ours": medians_ours, "pycytominer": medians_pycytominer},
            more={"plates": plates},
            **once,
        )
    )
    for n in (50, 100) if quick else (825, 1650, 3300):
        contestants = {"ours": distances_ours, "textbook": distances_textbook}
        cases.append(
            Case(
                "distances",
                f"{n:,} profiles",
                "run",
                1,
                prepare_nothing,
                contestants,
                work=n,
                load=n**2,
                bound="distances",
                more={"profiles": n},
                repeats=2 if quick else 3,
                warm=False,
            )
        )
    library = (
        {"genes": 100, "ontology": (300, 3000)}
        if quick
        else {"genes": made.LIBRARY, "ontology": (made.TERMS, made.ANNOTATIONS)}
    )
    cases.append(
        Case(
            "enrichment",
            "one cluster, each term by itself",
            "cluster",
            1,
            prepare_ontology,
            {"ours": enrichment_ours, "textbook": enrichment_textbook},
            bound="pass",
            more=library,
            repeats=2 if quick else 3,
            warm=False,
        )
    )
    cases.append(
        Case(
            "enrichment",
            f"{made.CLUSTERS} clusters, all algorithms",
            "run",
            1,
            prepare_ontology,
            {"ours": ontology_ours},
            more=library,
            repeats=1,
            warm=False,
        )
    )
    plates = 6 if quick else 56
    cases.append(
        Case(
            "discovery",
            f"{240 * plates:,} fields",
            "run",
            1,
            prepare_nothing,
            {"ours": discovery_ours},
            more={"plates": plates},
            repeats=1,
            warm=False,
        )
    )
    return cases


def machine_cases(quick: bool = False) -> list[Case]:
    """Return what measures the machine, and the memory of a process that does nothing."""
    sizes = {"copy": 2**20, "product": 128} if quick else {"copy": 2**28, "product": 2048}
    return [
        Case("machine", "limits", "run", 1, prepare_nothing, {"ours": machine_ours}, more=sizes),
        Case(
            "machine", "base", "run", 1, prepare_nothing, {"ours": base_ours}, repeats=1, warm=False
        ),
    ]


def flat_cases(quick: bool = False) -> list[Case]:
    """Return what shows how memory grows from n to 4 n fields.

    Of profiles, the two cases of `all_cases` do.
    """
    height, width, n = (64, 96, 4) if quick else (512, 640, 16)
    common = {
        "height": height,
        "width": width,
        "more": {"raw": 16 if quick else 64},
        "repeats": 1,
        "warm": False,
    }
    return [
        *(
            Case(
                "flat preprocess",
                f"{fields} fields",
                "field",
                fields,
                prepare_raw,
                {"ours": preprocess_ours},
                fields=fields,
                **common,
            )
            for fields in (n, 4 * n)
        ),
        *(
            Case(
                "flat embed",
                f"{fields} fields",
                "field",
                fields,
                prepare_store,
                {"ours": embed_ours},
                fields=fields,
                network="default",
                batch=2,
                **common,
            )
            for fields in (n, 4 * n)
        ),
    ]
