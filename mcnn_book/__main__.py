"""The commands of the package and the book: ``python -m mcnn_book VERB ...``.

``make`` calls them; `COMMANDS` lists them. Each reads its own options and then imports what it
needs, so that a mistyped option is answered at once.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mcnn_book.command import reporting, whole
from mcnn_core.errors import InputError, MissingStageError

Parser = argparse.ArgumentParser
LAYOUTS = ("default", "tiny")
PLACES = ("row", "column", "edge")
NETWORKS = ("published", "published-gap", "default", "default-no-norm", "default-three-scales")
RECIPES = ("published", "default")
REFERENCES = ("plate-percentile", "dmso")
ILLUMINATIONS = ("none", "plate", "given")
SIDES = (64, 10_000)  #: pixels that a side of a simulated field may have
SCHEDULER = "tcp://HOST:PORT of a cluster that does it instead (mcnn_core.machine.scheduler)"


def _check(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Examine a screen before the book is built on it; exit status 1 where there is an error."""
    parser.add_argument(
        "--screen", required=True, help="path of a LoadData .csv, bbbc021 or kimorph"
    )
    parser.add_argument(
        "--data", default="", help="folder of the latter two; of a table's images, joined by colons"
    )
    parser.add_argument("--platemap", default="", help="table of what each well holds")
    parser.add_argument("--channels", default="", help="those that are read, joined by commas")
    parser.add_argument(
        "--params",
        default="",
        help="as make book takes them; time, planes, incomplete, sizes and negative count",
    )
    parser.add_argument(
        "--out", default="_build", help="folder to write check.html and check.json to"
    )

    def run(args: argparse.Namespace) -> None:
        from mcnn_book.check.examine import check, terminal, visible, write
        from mcnn_book.workspace import claim_output, find_root
        from mcnn_core.readers.reading import CHOICES, Reading
        from mcnn_core.readers.tables import is_table

        out = Path(args.out or "_build").expanduser()
        name, data = (os.path.expanduser(text) for text in (args.screen, args.data))
        pairs = dict(pair.partition("=")[::2] for pair in shlex.split(args.params))
        options = {key: pairs[key] for key in (*CHOICES, "time", "negative") if key in pairs}
        reading = Reading.from_text(data, args.platemap, args.channels, **options)
        sources = {"SCREEN": [Path(name)] if is_table(name) else [], "DATA": reading.data}
        out = claim_output(out, find_root(), **sources)
        report = check(name, data, out, progress=sys.stderr.isatty(), reading=reading)
        write(report, out)
        print(terminal(report))
        print(
            f"\nthe whole report: {visible((out / 'check.html').resolve(), 10_000)}"
            f"\nas a list: {visible((out / 'check.json').resolve(), 10_000)}"
        )
        sys.exit(1 if report.counts()["error"] else 0)

    return run


def _data(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Fetch a public screen."""
    parser.add_argument(
        "--screen",
        required=True,
        help="bbbc021: plates and tables; kimorph: the Gene Ontology; ljosa, jumpmoa, lincs: the "
        "tables of the chapter on real plates",
    )
    parser.add_argument("--data", required=True, help="folder to fetch into")
    parser.add_argument(
        "--only", default="", help="weeks and plates, as in Week1,Week2_24381; all by default"
    )
    parser.add_argument(
        "--from", default="", dest="address", help="address of a copy of the publisher's files"
    )

    def run(args: argparse.Namespace) -> None:
        from mcnn_book import download, transfer

        kinds = {"bbbc021": "plates", "kimorph": "files of the Gene Ontology"}
        kinds |= dict.fromkeys(download.REAL_TABLES, "tables")
        if args.screen not in kinds:
            raise InputError(
                "what can be fetched is bbbc021, for kimorph the Gene Ontology, and the tables of "
                f"{', '.join(download.REAL_TABLES)}",
                [f"screen {args.screen!r} cannot"],
            )
        if not args.data:
            raise InputError(
                f"name the folder to fetch into: make data SCREEN={args.screen} DATA=DIR"
            )
        print(
            "The publisher gives no checksums: the SHA-256 of each file is recorded in "
            f"{transfer.RECORD} when it is first seen, and compared from then on."
        )
        folder = Path(args.data).expanduser()
        only = [name.strip() for name in args.only.split(",") if name.strip()]
        if args.screen == "bbbc021":
            new = download.fetch_bbbc021(folder, only, args.address or download.BBBC021)
        elif args.screen == "kimorph":
            new = download.fetch_go(folder, args.address or download.GO)
        else:
            new = download.fetch_tables(folder, args.screen, args.address)
        print(f"{len(new)} {kinds[args.screen]} are new in {args.data}")

    return run


def _table(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Write the LoadData table of a folder as a microscope left it, and say what it took."""
    parser.add_argument("--screen", required=True, help="the folder with the images")
    parser.add_argument("--out", required=True, help="the table to write, a new .csv")
    parser.add_argument(
        "--pattern",
        default="",
        help="regular expression with named groups for the end of an image's path, such as "
        r"(?P<plate>\w+)/(?P<well>[A-P]\d+)_(?P<site>\d+)_(?P<channel>\w+)\.png",
    )

    def run(args: argparse.Namespace) -> None:
        from mcnn_core.readers.folders import write_folder_table

        out = Path(args.out).expanduser()
        if out.suffix.lower() != ".csv":
            raise InputError("name the table to write: make table SCREEN=FOLDER OUT=FILE.csv")
        print(*write_folder_table(args.screen, out, args.pattern), sep="\n")
        outside = not Path(args.screen).resolve().is_relative_to(out.resolve().parent)
        data = f" DATA={args.screen}" * outside
        print(f"{out} is written; examine it: make check SCREEN={out}{data}")

    return run


def _simulate(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Write a simulated screen in the file layout of BBBC021 or KiMorph."""
    parser.add_argument(
        "--out",
        required=True,
        help="folder to write: new, empty, or such a screen, which is replaced",
    )
    parser.add_argument("--seed", type=whole(), required=True)
    parser.add_argument(
        "--screen", default="simulated", help="kimorph: the siRNA screen, in the layout of imageHTS"
    )
    parser.add_argument("--layout", choices=LAYOUTS, default="default")
    parser.add_argument("--height", type=whole(*SIDES), default=128)
    parser.add_argument("--width", type=whole(*SIDES), default=160)
    parser.add_argument(
        "--workers", type=whole(1), default=2, help="processes; the pixels do not depend on it"
    )
    parser.add_argument(
        "--place", choices=PLACES, default="", help="where the plates have dried; not of KiMorph"
    )

    def run(args: argparse.Namespace) -> None:
        from mcnn_book.simulate import bbbc021, kimorph

        if args.place and args.screen == "kimorph":
            raise InputError("--place: only the simulated BBBC021 has plates that dry")
        screen, write = (
            (kimorph, kimorph.simulate_kimorph)
            if args.screen == "kimorph"
            else (bbbc021, bbbc021.simulate_screen)
        )
        layout = screen.LAYOUTS[args.layout]
        layout = replace(layout, place=args.place) if args.place else layout
        write(args.out, args.seed, layout, args.height, args.width, args.workers)

    return run


def _run_preprocess(args: argparse.Namespace) -> None:
    """Read the screen, choose the bin and write its store."""
    from mcnn_core.preprocessing import Conversion, auto_bin, preprocess
    from mcnn_core.readers.images import check_headers
    from mcnn_core.readers.loaddata import read_loaddata
    from mcnn_core.readers.tables import is_table
    from mcnn_core.screen import load_screen

    table = is_table(args.screen)
    if not table and not (Path(args.screen) / "screen.json").is_file():
        raise InputError(
            f"screen {args.screen!r} is neither a LoadData .csv nor a folder in which the "
            "first chapter left screen.json"
        )
    screen = read_loaddata(args.screen) if table else load_screen(args.screen)
    size = args.bin or auto_bin(check_headers(screen), len(screen.table))
    how = Conversion(args.reference, size, args.multiple, args.illumination)
    store = preprocess(screen, args.out, how, args.scheduler or args.workers)
    print(f"{args.out}: {' x '.join(map(str, store.shape))} (fields, height, width, channels)")


def _preprocess(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Write the 8-bit store of a screen."""
    parser.add_argument(
        "--screen", required=True, help="a LoadData .csv, or the output folder of the first chapter"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="folder of the store: new, empty, or a store, which is replaced",
    )
    parser.add_argument("--reference", choices=REFERENCES, default="plate-percentile")
    parser.add_argument(
        "--illumination",
        choices=ILLUMINATIONS,
        default="none",
        help="what counts are divided by: the plate's mean image, or the table's functions",
    )
    parser.add_argument(
        "--bin",
        type=whole(),
        default=0,
        help="join bin x bin pixels; 0: chosen from the size and number of fields",
    )
    parser.add_argument(
        "--multiple", type=whole(1), default=32, help="pad the sides to multiples of this"
    )
    parser.add_argument("--workers", type=whole(1), default=2, help="threads")
    parser.add_argument("--scheduler", default="", help=SCHEDULER)

    return _run_preprocess


def _run_train(args: argparse.Namespace) -> None:
    """Train on the surrogate classes of a folder."""
    import pandas as pd

    from mcnn_core import training
    from mcnn_core.model import CONFIGS
    from mcnn_core.screen import field_names
    from mcnn_core.store import Store

    table = args.out / "surrogate.parquet"
    if not table.is_file():
        raise MissingStageError(
            f"{args.out} holds no surrogate.parquet: run the notebooks 01 to 03 first"
        )
    try:
        classes = pd.read_parquet(table)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise InputError(
            f"{table} is not a readable table ({error}): run the notebook "
            "03_surrogate_classes again"
        ) from error
    chosen = {
        key: getattr(args, key)
        for key in ("epochs", "batch", "max_steps")
        if getattr(args, key) is not None
    }
    training.train(
        Store.open(args.out / "store"),
        classes["label"].to_numpy(),
        CONFIGS[args.network],
        replace(training.RECIPES[args.recipe], seed=args.seed, **chosen),
        args.out / "model",
        field_names(classes),
    )


def _train(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Train on the surrogate classes of an output folder, as chapter 5 does."""
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder with store/ and surrogate.parquet (chapters 1 to 3); receives model/",
    )
    parser.add_argument("--network", choices=NETWORKS, default="default")
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    parser.add_argument("--seed", type=whole(), default=0)
    parser.add_argument("--epochs", type=whole(1), help="the recipe's where not given")
    parser.add_argument(
        "--batch",
        type=whole(1),
        help="fields per step; the recipe's where not given",
    )
    parser.add_argument("--max-steps", type=whole(1), help="stop after so many steps")

    return _run_train


def _embed(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Send every field of a store through a trained network."""
    parser.add_argument("--store", required=True, help="folder that pre-processing wrote")
    parser.add_argument("--model", required=True, help="folder that training has finished")
    parser.add_argument(
        "--out",
        required=True,
        help="folder of the parts, and of activations.npy: row i for row i of the store",
    )
    parser.add_argument("--scheduler", default="", help=SCHEDULER)

    def run(args: argparse.Namespace) -> None:
        from mcnn_core.features import embed_screen
        from mcnn_core.machine.files import write_array
        from mcnn_core.store import Store
        from mcnn_core.training import load_model

        activations = embed_screen(
            load_model(args.model), Store.open(args.store), args.out, args.scheduler
        )
        write_array(Path(args.out) / "activations.npy", activations)
        print(
            f"{args.out}/activations.npy: {activations.shape[0]} fields, "
            f"{activations.shape[1]} activations each"
        )

    return run


def _place(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Place new plates with the network of an earlier report."""
    parser.add_argument("--screen", required=True, help="LoadData table of the new plates")
    parser.add_argument("--data", default="", help="folders of its images, joined by colons")
    parser.add_argument("--platemap", default="", help="table of what each well holds")
    parser.add_argument("--channels", default="", help="those of the report, joined by commas")
    parser.add_argument("--report", type=Path, required=True, help="OUT of the earlier report")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new plates")

    def run(args: argparse.Namespace) -> None:
        from mcnn_book.placing import movement, place
        from mcnn_core.machine.files import claim, write_table
        from mcnn_core.readers.loaddata import read_loaddata
        from mcnn_core.readers.reading import Reading

        out = args.out.expanduser()
        reading = Reading.from_text(args.data, args.platemap, args.channels)
        screen = read_loaddata(args.screen, reading=reading)
        claim(out, "folder of placed plates")
        tables = place(screen, args.report.expanduser(), out)
        for name, table in tables.items():
            write_table(out / name, table)
        found = movement(tables["moved.csv"])
        print(
            "{treatments} old treatments, {replicated} of them also on the new plates. Of {asked} "
            "answers under NSC {changed} changed: {right_before} were right, {right_after} "
            "are".format(**found)
        )
        print(f"{', '.join(tables)} are written to {out}")

    return run


def _run_study(args: argparse.Namespace) -> None:
    """Run and record each study that is not recorded yet."""
    from mcnn_book.study import study
    from mcnn_book.workspace import claim_output, find_root, provenance
    from mcnn_core.machine.files import claim, write_json

    root = find_root()
    out = args.out or claim_output(root / "_build", root) / "study"
    named = study.studies(out, args.screen)
    claim(out, "study")
    for name, (seeds, function) in named.items():
        path = root / "book" / "recorded" / f"{name}.json"
        if args.only not in name:
            continue
        if path.exists():
            print(f"{name}: recorded already in {path.name}; delete it to measure anew")
            continue
        start, runs = time.monotonic(), {}
        for seed in seeds:
            print(f"{name}: seed {seed}", flush=True)
            runs[str(seed)] = function(seed)
        command = "make study" + (f" SCREEN={Path(args.screen).name}" if args.screen else "")
        record = {
            "command": command,
            "seeds": seeds,
            "seconds": round(time.monotonic() - start, 1),
            **provenance(),
            "runs": runs,
        }
        write_json(path, record)
        print(f"{name}: written to {path}", flush=True)


def _study(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Run every declared study of seeds, variants and baselines that has no record yet."""
    parser.add_argument(
        "--screen",
        default="",
        help="a LoadData .csv: record the comparison on that screen alone, "
        "under the name of its file",
    )
    parser.add_argument("--out", type=Path, help="working folder; _build/study by default")
    parser.add_argument("--only", default="", help="names that contain this text")

    return _run_study


def _real(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Record what the chapter on real plates shows, from the tables in a folder."""
    parser.add_argument("--data", type=Path, required=True, help="folder of the real tables")

    def run(given: argparse.Namespace) -> None:
        from mcnn_book.real_plates import RECORD, measured
        from mcnn_book.workspace import find_root, provenance
        from mcnn_core.machine.files import write_json

        path = find_root() / "book" / "recorded" / RECORD
        command = "python -m mcnn_book real --data DIR"
        tables = measured(given.data.expanduser())
        write_json(path, {"command": command, **provenance(), "tables": tables})
        print(f"written to {path}")

    return run


def _clean(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Delete what was written to _build and _rerun; what others put there stays."""

    def run(args: argparse.Namespace) -> None:
        from mcnn_book.workspace import clean

        clean()

    return run


def _lab(parser: Parser) -> Callable[[argparse.Namespace], None]:
    """Open the notebooks of a built book in JupyterLab."""
    parser.add_argument("--out", default="_build", help="folder of the book")

    def run(args: argparse.Namespace) -> None:
        from importlib.util import find_spec

        out = Path(args.out or "_build").expanduser().resolve()
        if not (out / "notebooks").is_dir():
            raise MissingStageError(f"{out} holds no notebooks: make book writes them")
        if not find_spec("jupyterlab"):
            raise InputError(
                "JupyterLab is not installed: .venv/bin/python -m pip install jupyterlab"
            )
        os.chdir(out)  # above the notebooks, so that their links to pages lead somewhere
        command = [sys.executable, "-m", "jupyterlab", "--LabApp.default_url=/lab/tree/notebooks"]
        os.execv(command[0], command)

    return run


COMMANDS = {
    "check": _check,
    "data": _data,
    "table": _table,
    "simulate": _simulate,
    "preprocess": _preprocess,
    "train": _train,
    "embed": _embed,
    "place": _place,
    "study": _study,
    "real": _real,
    "lab": _lab,
    "clean": _clean,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of `COMMANDS`, named first among the arguments."""
    arguments = [*(sys.argv[1:] if arguments is None else arguments)]
    parser = Parser(prog="python -m mcnn_book", description="The commands of the book.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, declare in COMMANDS.items():
        text = (declare.__doc__ or "").strip()
        part = verbs.add_parser(verb, help=text.partition("\n")[0], description=text)
        part.set_defaults(run=declare(part), arguments=arguments)
    args = parser.parse_args(arguments)
    with reporting():
        args.run(args)


if __name__ == "__main__":
    main()
