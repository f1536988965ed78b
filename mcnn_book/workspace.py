"""One notebook's place on disk: where its files lie and what it has measured.

Every notebook opens with ``workspace = Workspace(out, "NN_name")``. It takes what
earlier notebooks left with `Workspace.need`, and hands numbers to the book with
`Workspace.record`: each goes to ``results/NN_name.json`` in the output folder and
is glued under the same key, so that prose never repeats a number by hand.
"""

import math
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.machine.files import (
    MARKER,
    atomic,
    claim,
    discard,
    exclusive,
    first_few,
    in_build,
    share,
    write_json,
)
from mcnn_core.screen import NOT_AVAILABLE

Scalar = bool | int | float | str
Table: TypeAlias = Mapping | pd.Series | pd.DataFrame

# where a file that git does not know takes part in a run
CODE = ("mcnn_book", "mcnn_core", "notebooks", "tools")


VERSIONS_OF = ("torch", "numpy", "scipy", "pandas", "scikit-learn")


def find_root(start: Path | None = None) -> Path:
    """Return the repository root: the nearest folder upwards from `start` with ``_config.yml``.

    Papermill runs a notebook in its caller's folder and Jupyter in the notebook's
    own, so both are searched for; the package's own parent is the last resort.
    """
    start = Path.cwd() if start is None else Path(start).resolve()
    for folder in (start, *start.parents):
        if (folder / "_config.yml").is_file() and (folder / "mcnn_core").is_dir():
            return folder
    return Path(__file__).resolve().parents[1]


def claim_output(out: str | os.PathLike, root: Path, **sources: Iterable[Path]) -> Path:
    """Claim a folder for what the commands write (`claim`) and return its real path.

    Parameters
    ----------
    out : path
    root : Path
        The repository.
    sources : iterable of Path
        What is read, by the name of the option that gives it: the table of a screen (its folder
        counts), or folders of images.

    Raises
    ------
    InputError
        If `out` is, or lies above, the repository, the home folder or what is read; or holds what
        this project has not written.
    """
    out = Path(out).expanduser().resolve()
    taken = {"this repository": root.resolve(), "your home folder": Path.home().resolve()}
    places = [*taken.items()]
    for option, paths in sources.items():
        for path in (one.expanduser().resolve() for one in paths):
            places.append((f"the folder of {option}", path if path.is_dir() else path.parent))
    for what, place in places:
        if out == place or out in place.parents:
            raise InputError(
                f"OUT={out} {'is' if out == place else 'holds'} {what}"
                + f" ({place})" * (out != place)
                + ": name a folder for the results alone"
            )
    claim(out, "output folder")
    return out


def clean(root: Path | None = None) -> None:
    """Delete what this project has written to ``_build`` and ``_rerun`` (``make clean``).

    Name what stays because it was not.
    """
    root = root or find_root()
    for folder in (root / "_build", *sorted((root / "_rerun").glob("*"))):
        with ExitStack() as held:
            for lock in sorted(folder.rglob(".lock")) if (folder / MARKER).is_file() else ():
                held.enter_context(exclusive(lock.parent))
            if left := discard(folder):
                print(f"{folder} keeps {first_few(left)}: not known to be written by this program")
    with suppress(OSError):
        (root / "_rerun").rmdir()


def commit(root: Path) -> str:
    """Return the git commit of the folder `root`.

    It has ``-dirty`` if what runs differs from it, or is ``"unknown"`` outside a git repository.
    Output folders that git does not know do not count, nor does ``book/recorded``, which a study
    writes while it runs.
    """
    changed = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!book/recorded"]
    new = ["git", "ls-files", "--others", "--exclude-standard", "--", *CODE]
    try:
        head, *differences = (
            subprocess.run(
                command, cwd=root, capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["git", "rev-parse", "HEAD"], changed, new)
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if any(differences) else head


def processor() -> str:
    """Return the name of this machine's processor, as the operating system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def provenance(root: Path | None = None) -> dict[str, str]:
    """Return what a result depends on in addition to its inputs, as flat ``name: text``.

    Keys: ``commit``, ``processor``, ``version.python`` and ``version.<package>``.
    """
    return {
        "commit": commit(root or find_root()),
        "processor": processor(),
        "version.python": platform.python_version(),
        **{f"version.{name}": metadata.version(name) for name in VERSIONS_OF},
    }


def format_number(value: Scalar) -> str:
    """Write a number as prose does: 11,126,215; 0.874; 1,234; text stays as it is."""
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the numbers of a table by ``<key>.<row>.<column>``, of a mapping by ``<key>.<name>``.

    A scalar has the key itself; NaN is the text "not available".
    """
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("index")
    if isinstance(value, Mapping | pd.Series):
        for name, part in value.items():
            yield from flat(part, f"{key}.{name}")
    else:
        value = value.item() if isinstance(value, np.generic) else value
        yield key, NOT_AVAILABLE if isinstance(value, float) and math.isnan(value) else value


class Workspace:
    """Where one notebook reads and writes.

    With `out`, as a build has it, both are in that folder. Without, as when a reader runs a
    notebook again, it writes to ``_rerun/<chapter>`` in the repository, reads from ``_build``,
    where that lacks something from ``_rerun/<the notebook that makes it>``, and says so in a line:
    the tables of a book stay as they are.

    Parameters
    ----------
    out : str or Path
        Output folder; a relative path is relative to the repository root, whatever the current
        folder.
    chapter : str
        Name of the notebook, such as ``"01_screen"``.
    section : str, optional
        First part of the result keys; the chapter's name without its number by default.

    Raises
    ------
    InputError
        If `out` is not one of this project's own (`claim_output`), or a build is writing to it.
        Notebooks may share a folder; until they end, no build may write to it.
    """

    def __init__(self, out: str | Path, chapter: str, section: str = ""):
        self.root, self.chapter = find_root(), chapter
        self.section = section or chapter.partition("_")[2]
        self.results: dict[str, Scalar] = {}
        self.book = None if out else self.root / "_build"
        self.out = self.root / (Path(out).expanduser() if out else f"_rerun/{chapter}")
        if not in_build():
            self.out = claim_output(self.out, self.root)
            share(self.out, f"notebook {chapter}")
        if self.book:
            print(
                f"{chapter} reads from {self.book}, or else from {self.root / '_rerun'}/"
                "<the notebook that makes it>, and writes to "
                f"{self.out}; notebooks that are given the same out read and write "
                "in that folder alone"
            )

    def path(self, name: str) -> Path:
        """Return the path that this notebook writes the file or folder `name` to."""
        return self.out / name

    def need(self, name: str, notebook: str) -> Path:
        """Return the path of an earlier notebook's output.

        Raises
        ------
        MissingStageError
            If it does not exist; the message names the notebook that makes it.
        """
        places = (
            [self.book / name, self.root / "_rerun" / notebook / name]
            if self.book
            else [self.out / name]
        )
        for path in places:
            if path.exists():
                return path
        command = f"run notebooks/{notebook}.ipynb first"
        raise MissingStageError(
            f"{' and '.join(map(str, places))} {'are' if self.book else 'is'} missing: "
            + (
                f"make book, or {command}"
                if self.book
                else f"{command}, with out={str(self.out)!r}"
            )
        )

    def record(self, *tables: Table, **values: Scalar | Table) -> None:
        """Keep numbers (or texts) as ``<section>.<name>``: on disk at once, and glued for the page.

        Those of `tables` by ``<section>.<name>`` or ``<section>.<row>.<column>``, those of a table
        among `values` with its name before these. NaN is kept as "not available".

        Raises
        ------
        InputError
            If a value is infinite or not a scalar; all of them are named.
        """
        plain = {
            key: value for table in (*tables, values) for key, value in flat(table, self.section)
        }
        bad = [
            f"{key} = {value!r}"
            for key, value in plain.items()
            if not isinstance(value, Scalar)
            or (isinstance(value, float) and not math.isfinite(value))
        ]
        if bad:
            raise InputError(
                "a recorded result must be a finite number, a text or a truth value", bad
            )
        self.results |= plain
        write_json(self.path("results") / f"{self.chapter}.json", self.results)
        for key, value in plain.items():
            self._glue(key, format_number(value))

    def glue_figure(self, name: str, figure: Any) -> None:
        """Keep a Matplotlib figure as ``<section>.<name>``.

        Glued, to be shown elsewhere on its page, and as ``figures/<section>.<name>.png``, to be
        shown on another.
        """
        key = f"{self.section}.{name}"
        with atomic(self.path("figures") / f"{key}.png") as temporary:
            figure.savefig(temporary, dpi=150, bbox_inches="tight")
        self._glue(key, figure)

    def _glue(self, key: str, value: Any) -> None:
        from myst_nb import glue  # a tool of the book: the package itself does not need it

        glue(key, value, display=False)
