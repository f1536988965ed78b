"""Build the book, or a report: run the notebooks that need it, weave prose over outputs, render.

The simulated screen gives the book. Any other screen gives a report: the notebooks that apply to
it, without the prose that teaches, behind a summary.

The work on a notebook is split in two. *Execute* runs its code and is keyed on the
code, its parameters, the package modules it imports, the files that earlier notebooks
left, a real screen's own files, and the installed versions. *Weave* lays the present prose
over the outputs kept. So a change of prose never trains a network again, and a change of
code runs again what depends on it.

``dodo.py`` arranges these functions into a graph; `Build` holds one run's options.
"""

import ast
import copy
import hashlib
import html
import json
import math
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property, lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import nbformat
import yaml
from nbformat import NotebookNode

from mcnn_book.__main__ import ILLUMINATIONS, LAYOUTS, NETWORKS, RECIPES, REFERENCES, SIDES
from mcnn_book.command import WHOLE, reporting
from mcnn_core.errors import InputError
from mcnn_core.machine.files import (
    atomic,
    is_ours,
    read_json,
    read_text,
    register,
    remove,
    sha256,
    take,
    write_json,
    written,
)
from mcnn_core.readers import reading
from mcnn_core.readers.reading import folders

ROOT = Path(__file__).resolve().parents[1]
SCREENS = ("simulated", "bbbc021", "kimorph")
#: The table of contents of a build by its screen; any other screen has the second one.
CONTENTS = {
    "simulated": "_toc.yml",
    "": "_toc_report.yml",
    "kimorph": "_toc_genes.yml",
    "features": "_toc_features.yml",
    "both": "_toc_report_features.yml",
}
FORMATS = "ipynb,md:myst"
PACKAGES = ("mcnn_core", "mcnn_book")
#: What the build itself, or `make check`, writes into `out`.
NOT_OUTPUTS = (
    "exec",
    "src",
    "html",
    "doctrees",
    "jupyter_execute",
    "notebooks",
    "results",
    "results.json",
    "student",
    "check.html",
    "check.json",
)


# Notebooks -----------------------------------------------------------------


def notebook_names(root: Path = ROOT) -> list[str]:
    """Return the notebooks' names in reading order, such as ``"01_screen"``."""
    return sorted(path.stem for path in (root / "notebooks").glob("[0-9][0-9]_*.md"))


def read_source(name: str, root: Path = ROOT) -> NotebookNode:
    """Read ``notebooks/<name>.md``, the source of the pair, as a notebook without outputs."""
    return copy.deepcopy(_source(name, root))


def _source(name: str, root: Path) -> NotebookNode:
    """Return what `read_source` does, not to be changed.

    A build asks for every notebook many times.
    """
    path = root / "notebooks" / f"{name}.md"
    return _parsed(path, tuple(_stat(path)))


@lru_cache(maxsize=100)
def _parsed(path: Path, stat: tuple[int, ...]) -> NotebookNode:
    import jupytext

    try:
        notebook = jupytext.read(path)
        if not notebook.cells:
            raise InputError("it has no cells")
    except Exception as error:  # of whichever parser
        raise InputError(
            f"{path.name} is no notebook in MyST Markdown: {' '.join(str(error).split())}"
        ) from error
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:03d}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def same_cells(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two notebooks hold the same cells: kinds, texts and metadata, not outputs."""
    return [(cell.cell_type, cell.source, cell.metadata) for cell in one.cells] == [
        (cell.cell_type, cell.source, cell.metadata) for cell in other.cells
    ]


def paired_text(name: str, root: Path = ROOT) -> str:
    """Return what ``notebooks/<name>.ipynb`` holds when it is in step.

    These are the cells of the ``.md``, without outputs. Its metadata keep the hashes of both,
    which later tell an edited file from one that is as it was left.
    """
    notebook = read_source(name, root)
    notebook.metadata["pair"] = {"md": _md_hash(name, root), "cells": _cells_hash(notebook)}
    return nbformat.writes(notebook) + "\n"


def _md_hash(name: str, root: Path) -> str:
    return hashlib.sha256(
        (root / "notebooks" / f"{name}.md").read_text(encoding="utf-8").encode()
    ).hexdigest()


def _cells_hash(notebook: NotebookNode) -> str:
    cells = [(cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()


def _read_paired(path: Path) -> NotebookNode:
    """Read an ``.ipynb`` as a person may have left it, without what the ``.md`` does not keep.

    Raises
    ------
    InputError
        If there is nothing to keep.
    """
    import jupytext

    try:
        content = read_json(path)
        if (
            not isinstance(content, dict)
            or content.get("nbformat") != 4
            or not content.get("cells")
        ):
            raise InputError("it is no notebook of format 4 with cells")
        notebook = nbformat.reader.reads(json.dumps(content))
        nbformat.validate(notebook)
    except Exception as error:  # of whichever parser
        why = str(error).partition("\n")[0].removeprefix(f"{path} ")
        raise InputError(
            f"{path.name}: {why}; mend it, or move it away, and it is made anew from its .md"
        ) from error
    kept = jupytext.reads(jupytext.writes(notebook, "md:myst"), "md:myst")
    kept.metadata["pair"] = notebook.metadata.get("pair")
    return kept


def sync_pairs(root: Path = ROOT) -> list[str]:
    """Make each ``.md`` and ``.ipynb`` pair agree.

    The one that was edited since they were last in step is kept, whatever their times. The
    ``.ipynb`` is written without outputs. Returns what was rewritten.

    Raises
    ------
    InputError
        If both files of a pair were edited, or an ``.ipynb`` cannot be read; all of them are named
        and nothing is written.
    """
    texts, problems = {}, []
    for name in notebook_names(root):
        text, paired = (root / "notebooks" / f"{name}{suffix}" for suffix in (".md", ".ipynb"))
        try:
            expected = paired_text(name, root)
            if not paired.exists():
                texts[paired] = expected
            elif paired.read_text(encoding="utf-8", errors="replace") != expected:
                edited = _read_paired(paired)
                left = edited.metadata.pop("pair") or {}
                if same_cells(edited, read_source(name, root)) or left.get("cells") == _cells_hash(
                    edited
                ):
                    texts[paired] = expected
                elif left.get("md") == _md_hash(name, root):
                    texts |= {text: edited_text(name, edited, root), paired: ""}
                else:
                    problems.append(
                        f"{name}: its .md and its .ipynb have both been edited since they were in "
                        "step. To keep the .md, move the .ipynb away; to keep the .ipynb, "
                        f".venv/bin/jupytext --to md:myst notebooks/{name}.ipynb overwrites the .md"
                    )
        except InputError as error:
            problems += [str(error)]
    if problems:
        raise InputError("Notebooks cannot be brought into step; nothing was written", problems)
    for path, content in texts.items():
        with atomic(path) as temporary:
            temporary.write_text(content or paired_text(path.stem, root), encoding="utf-8")
    return [path.name for path in texts]


def edited_text(name: str, edited: NotebookNode, root: Path) -> str:
    """Return the ``.md`` of an edited notebook: of the present one only the lines that were edited.

    Jupytext has its own way to write a cell's settings; so what it makes of both notebooks is
    compared, and the difference merged into the present text. Where that cannot be done, for want
    of git or because settings were edited, all is as jupytext writes it.
    """
    import jupytext

    edited.metadata.setdefault("jupytext", {})["formats"] = FORMATS
    left = nbformat.reads(paired_text(name, root), as_version=4)
    del left.metadata["pair"]
    before, after = (jupytext.writes(one, "md:myst") for one in (left, edited))
    with tempfile.TemporaryDirectory() as place:
        present = root / "notebooks" / f"{name}.md"
        parts = {"present": present.read_text(encoding="utf-8"), "before": before, "after": after}
        for part, text in parts.items():
            Path(place, part).write_text(text, encoding="utf-8")
        command = ["git", "merge-file", "-p", *parts]
        try:
            merged = subprocess.run(command, cwd=place, capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return after
    text = merged.decode()
    return text if same_cells(jupytext.reads(text, "md:myst"), edited) else after


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells, without the one papermill injects."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and "injected-parameters" not in tags(cell)
    ]


def idea(name: str, root: Path = ROOT) -> str:
    """Return the source of the cell of a chapter that is its idea in code."""
    cells = [cell.source for cell in code_cells(_source(name, root)) if "idea" in tags(cell)]
    if len(cells) != 1:
        raise InputError(f"{name} has {len(cells)} cells with the tag idea, expected one")
    return cells[0]


def tags(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return cell.metadata.get("tags", [])


def known_parameters(notebook: NotebookNode) -> dict:
    """Return the names and defaults that the cell tagged ``parameters`` assigns."""
    cells = [cell for cell in notebook.cells if "parameters" in tags(cell)]
    try:
        return {
            # what has no id is refused below
            node.targets[0].id: ast.literal_eval(node.value)  # type: ignore[attr-defined]
            for cell in cells
            for node in ast.parse(cell.source).body
            if isinstance(node, ast.Assign)
        }
    except (SyntaxError, ValueError, AttributeError) as error:
        raise InputError(
            "The cell with the tag parameters assigns plain values to names, one a line",
            [cell.source for cell in cells],
        ) from error


def imported_directly(source: str, root: Path = ROOT) -> list[str]:
    """Return our modules that `source` itself imports, in order, such as ``"mcnn_core.model"``.

    A module of a package comes after the package, whose own code runs first. What a package itself
    offers stands for the module that defines it, and the package as a whole for all that it offers.
    """
    return _ours(_imports(ast.walk(ast.parse(source))), root)


def _ours(imports: Iterable[str], root: Path) -> list[str]:
    parts = []
    for name in imports:
        package, _, rest = name.partition(".")
        path = module_file(package, root) if package in PACKAGES else None
        if path is not None:
            offered = _module(path).offered
            homes = offered.values() if rest in ("", "*") else [offered.get(rest, rest)]
            parts += [f"{package}.{home}".split(".") for home in homes] or [[package]]
    names = [".".join(part[:n]) for part in parts for n in range(1, len(part) + 1)]
    return [name for name in dict.fromkeys(names) if module_file(name, root)]


def module_file(name: str, root: Path = ROOT) -> Path | None:
    """Return the file of one of our modules or packages."""
    place = root.joinpath(*name.split("."))
    places = (place.with_name(f"{place.name}.py"), place / "__init__.py")
    return next((path for path in places if path.is_file()), None)


def _imports(nodes: Iterable[ast.AST]) -> list[str]:
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imported_modules(source: str, root: Path = ROOT) -> set[str]:
    """Return our modules that `source` imports, by itself or through others."""
    found: set[str] = set()
    waiting = imported_directly(source, root)
    while waiting:
        module = waiting.pop()
        path = module_file(module, root)
        if module not in found and path is not None:
            found.add(module)
            waiting += _ours(_module(path).imports, root)
    return found


class Module(NamedTuple):
    """What is known of a module."""

    text: str
    imports: list[str]
    offered: dict[str, str]  #: what a package offers, with the modules that define it
    #: SHA-256 of what it does: its syntax tree without comments, docstrings and what it offers, of
    #: which the modules that define it tell.
    code: str
    empty: bool  #: whether nothing of that is left


def _module(path: Path) -> Module:
    """Return what is known of a module, which a build asks for once for every notebook."""
    return _parsed_module(path, tuple(_stat(path)))


@lru_cache(maxsize=1000)
def _parsed_module(path: Path, _: tuple[int, ...]) -> Module:
    text = path.read_text(encoding="utf-8")
    nodes = [*ast.walk(tree := ast.parse(text))]
    imports = _imports(nodes)
    offers = [part for part in tree.body if isinstance(part, ast.AnnAssign) and _offers(part)]
    offered: dict[str, str] = {}
    for part in offers:
        offered |= ast.literal_eval(part.value or ast.Dict([], []))
    tree.body = [part for part in tree.body if part not in offers]
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in nodes:
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    code = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return Module(text, imports, offered, code, all(isinstance(x, ast.Pass) for x in tree.body))


def _offers(part: ast.AnnAssign) -> bool:
    return ast.unparse(part.target) in ("PUBLIC", "MODULES")


def reruns(root: Path = ROOT) -> dict[str, int]:
    """Return how many notebooks a change of each of our modules runs again.

    Those of a summary count too. A package's ``__init__`` without code is left out: what is no code
    changes no key.
    """
    counts: Counter[str] = Counter()
    for name in notebook_names(root):
        cells = code_cells(_source(name, root))
        counts.update(set().union(*(imported_modules(python_lines(x.source), root) for x in cells)))
    return {
        module: count
        for module, count in counts.most_common()
        if (path := module_file(module, root)) and not _module(path).empty
    }


# Options -------------------------------------------------------------------

#: What a parameter may be, next to what the type of its default asks for: one of these names,
#: which are the package's own (importing them would take seconds; a test compares them),
CHOICES = {
    "layout": LAYOUTS,
    "taxol": ("ljosa", "all"),
    "reference": REFERENCES,
    "illumination": ILLUMINATIONS,
    "network": NETWORKS,
    "recipe": RECIPES,
    "normalisation": ("none", "centre", "whiten"),
    "choice": ("nearest", "median"),
    "gaf_column": ("id", "symbol"),
    **{key: reading.CHOICES[key] for key in ("incomplete", "sizes")},
}
#: a number not below and not above these, where it is not simply 0 or more,
RANGES = {"height": SIDES, "width": SIDES} | dict.fromkeys(
    (
        *("workers", "node_size", "n", "fields", "cores", "months", "memory"),
        *("training_epochs", "steps"),
    ),
    (1, math.inf),
)
#: a text of this form,
FORMS = {
    "scheduler": (r"\w+://\S+:[0-9]+", "an address, tcp://HOST:PORT, is needed"),
    "planes": (f"max|middle|{WHOLE}", "max, middle or the number of a plane is needed"),
} | dict.fromkeys(
    ("surrogate", "by"),
    (
        r"Metadata_[^,]+(,Metadata_[^,]+)*",
        "names that begin with Metadata_, joined by commas, are needed",
    ),
)
#: or a file or folder that exists.
PATHS = ("obo", "gaf", "real")
#: Parameters that have a variable of the command of their own.
VARIABLES = ("channels", "data", "features", "out", "platemap", "screen", "seed", "surrogate")


def read_value(key: str, entered: object, default: object) -> object:
    """Return the value of a parameter from what was given for it, in the type of its default.

    Raises
    ------
    InputError
        If it is none; the message says what would be right.
    """
    text = entered if isinstance(entered, str) else str(entered)
    low, high = RANGES.get(key, (0, math.inf))
    span = f"{low:,} or more" if high == math.inf else f"{low:,} to {high:,}"
    if not isinstance(entered, str | int | float):
        raise InputError("one value is needed")
    if isinstance(default, bool):
        if text not in ("True", "False", "true", "false"):
            raise InputError("True or False is needed")
        return text.lower() == "true"
    if isinstance(default, int):
        if not re.fullmatch(WHOLE, text) or not low <= int(text) <= high:
            raise InputError(f"a whole number, {span}, is needed")
        return int(text)
    if isinstance(default, float):
        try:
            if low <= (number := float(text)) < math.inf and text.isascii():
                return number
        except ValueError:
            pass
        raise InputError(f"a number, {span}, is needed")
    if key in CHOICES and text not in CHOICES[key]:
        raise InputError(f"known are {', '.join(CHOICES[key])}")
    if text and key in FORMS and not re.fullmatch(FORMS[key][0], text):
        raise InputError(FORMS[key][1])
    if text and key in PATHS:
        if not Path(text).expanduser().exists():
            raise InputError("there is no such file or folder")
        return str(Path(text).expanduser().resolve())  # a notebook runs in a folder of its own
    return text


@dataclass(frozen=True)
class Build:
    """The options of one ``make book``; every field but `root` is a variable of the Makefile."""

    profile: str = "default"
    screen: str = "simulated"
    data: str = ""
    platemap: str = ""
    channels: str = ""
    features: str = ""
    out: Path = ROOT / "_build"
    seed: int = 0
    surrogate: str = ""
    params: str = ""
    root: Path = ROOT

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, root: Path = ROOT
    ) -> "Build":
        """Read the options that the Makefile exports.

        Raises
        ------
        InputError
            If the profile, the screen, a data folder, the plate map or the seed is not one that
            exists.
        """
        chosen = {
            name: environment.get(name.upper(), "")
            for name in ("profile", "seed", "params", *VARIABLES)
            if name != "out"
        }
        chosen = {name: text for name, text in chosen.items() if text}
        problems = []
        profiles = list(read_profiles(root))
        if chosen.get("profile", "default") not in profiles:
            problems.append(f"PROFILE={chosen['profile']}: known are {', '.join(profiles)}")
        screen = chosen.get("screen", "simulated")
        if screen not in SCREENS:
            chosen["screen"] = str(Path(screen).expanduser().resolve())
            if not Path(chosen["screen"]).is_file():
                known = f"known are {', '.join(SCREENS)} and the path of a table"
                what = "there is no such file" if Path(screen).suffix else known
                problems.append(f"SCREEN={screen}: {what}")
        for name in ("platemap", "channels"):
            if name in chosen and screen in SCREENS:
                problems.append(f"{name.upper()}={chosen[name]}: only with SCREEN=PATH.csv")
        if "data" in chosen:
            places = folders(chosen["data"])
            chosen["data"] = os.pathsep.join(places if screen not in SCREENS else [chosen["data"]])
            problems += [
                f"DATA={chosen['data']}: there is no such folder as {place}"
                for place in places
                if not Path(place).is_dir()
            ]
        if "platemap" in chosen:
            chosen["platemap"] = str(Path(chosen["platemap"]).expanduser().resolve())
            if not Path(chosen["platemap"]).is_file():
                problems.append(f"PLATEMAP={environment['PLATEMAP']}: there is no such file")
        if "features" in chosen:
            paths = [
                Path(one.strip()).expanduser().resolve() for one in chosen["features"].split(",")
            ]
            chosen["features"] = ",".join(map(str, paths))
            if screen == "kimorph":
                problems.append(f"FEATURES={chosen['features']}: only of screens of compounds")
            problems += [
                f"FEATURES={path}: there is no such file" for path in paths if not path.is_file()
            ]
        if not re.fullmatch(WHOLE, chosen.get("seed", "0")):
            problems.append(f"SEED={chosen['seed']}: a whole number, 0 or more, is needed")
        if problems:
            raise InputError("make was given what it does not know", problems)
        seed = int(chosen.pop("seed", "0"))
        out = Path(environment.get("OUT") or root / "_build").expanduser().resolve()
        return cls(**chosen, seed=seed, out=out, root=root)

    @property
    def report(self) -> bool:
        """Whether the pages are a report on a screen and not the book."""
        return self.screen != "simulated" or self.features != ""

    def sources(self) -> dict[str, list[Path]]:
        """Return what is read, by the name of the option that gives it."""
        screen = [] if self.screen in SCREENS else [Path(self.screen)]
        return {"SCREEN": screen, "DATA": [Path(one) for one in folders(self.data)]}

    @cached_property
    def screen_state(self) -> str:
        """The hash of `list_screen`.

        It is asked for once in a build, before anything is read, so that the next build sees a
        change that comes later.
        """
        return hashlib.sha256(json.dumps(list_screen(self), sort_keys=True).encode()).hexdigest()

    @cached_property
    def features_state(self) -> str:
        """The SHA-256 of each table of features, in their order."""
        return ",".join(sha256(Path(path)) for path in self.features.split(",") if path)

    def parameters(self) -> dict[str, dict]:
        """Return the parameters of every notebook, by name of the notebook.

        A profile's key goes to each notebook whose parameters cell has it; the
        variables of the command override it, and ``PARAMS`` overrides both.

        Raises
        ------
        InputError
            If the profile, ``SURROGATE`` or ``PARAMS`` has a key that no notebook knows, one twice,
            or a value that is not right; all of them are named.
        """
        known = {
            name: known_parameters(_source(name, self.root)) for name in notebook_names(self.root)
        }
        defaults = {key: default for cell in known.values() for key, default in cell.items()}
        free = sorted(defaults.keys() - set(VARIABLES))
        used = {key for name in chapters(self) for key in known[name]}
        usable = [key for key in free if key in used]
        try:
            pairs = [pair.partition("=") for pair in shlex.split(self.params)]
        except ValueError as error:
            raise InputError(
                f"PARAMS takes key=value, or key='two words': {error}", [self.params]
            ) from error
        asked = [
            (f"PROFILE={self.profile}: {key}={value}", key, value)
            for key, value in read_profiles(self.root)[self.profile].items()
        ]
        asked += [
            (f"{key}{equals}{text}", key, text if equals else None) for key, equals, text in pairs
        ]
        chosen, keys = {}, [key for key, _, _ in pairs]
        problems = [
            f"{key} is given {keys.count(key)} times"
            for key in dict.fromkeys(keys)
            if keys.count(key) > 1
        ]

        def take(source: str, key: str, value: object) -> None:
            try:
                chosen[key] = read_value(key, value, defaults.get(key, ""))
            except InputError as error:
                problems.append(f"{source}: {error}")

        for source, key, value in asked:
            if key in (free if source.startswith("PROFILE=") else usable):
                take(source, key, value)
            elif key in VARIABLES:
                problems.append(f"{source}: give the variable {key.upper()} instead")
            else:
                problems.append(f"{source}: there is no such key")
        if self.surrogate:
            take(f"SURROGATE={self.surrogate}", "surrogate", self.surrogate)
        if problems:
            raise InputError(
                f"PARAMS takes key=value with one of the keys {', '.join(usable)}", problems
            )
        chosen |= {"screen": self.screen, "seed": self.seed, "out": str(self.out)}
        own = {key: getattr(self, key) for key in ("data", "platemap", "channels", "features")}
        chosen |= {key: text for key, text in own.items() if text}
        if self.report:
            chosen["inside"] = 1  # a lesson of the book that a report leaves out
        return {
            name: {key: chosen[key] for key in known[name] if key in chosen}
            for name in chapters(self)
        }


def contents_file(build: Build) -> Path:
    """Return the table of contents that a build's pages follow."""
    if build.features:
        return build.root / CONTENTS["features" if build.screen == "simulated" else "both"]
    return build.root / CONTENTS.get(build.screen, CONTENTS[""])


def contents(build: Build) -> list[str]:
    """Return the pages that the table of contents of a build names, the first page first.

    A page is a path without its suffix; a pattern stands for several.
    """
    path = contents_file(build)
    return [*_read_contents(path, tuple(_stat(path)))]


@lru_cache(maxsize=10)
def _read_contents(path: Path, _: tuple[int, ...]) -> list[str]:
    return _pages(yaml.safe_load(read_text(path)))


def _pages(node: Any) -> list[str]:
    """Return what a part of a table of contents names."""
    if isinstance(node, list):
        return [page for part in node for page in _pages(part)]
    if not isinstance(node, dict):
        return []
    named = [node[key] for key in ("root", "file", "glob") if key in node]
    return named + [page for part in node.values() for page in _pages(part)]


def chapters(build: Build) -> list[str]:
    """Return the notebooks that belong to a build, in the order in which they run.

    They are those that its table of contents names. A report's summary is its first page and is
    numbered to run last.
    """
    named = set(contents(build))
    return [name for name in notebook_names(build.root) if f"notebooks/{name}" in named]


def read_profiles(root: Path = ROOT) -> dict[str, dict]:
    """Return ``notebooks/profiles.yml``: for each profile, values by parameter name."""
    path = root / "notebooks" / "profiles.yml"
    try:
        profiles = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(profiles, dict) or not all(
        isinstance(values, dict) for values in profiles.values()
    ):
        raise InputError(f"{path}: expected profiles, each with values by name of a parameter")
    return profiles


def state_file(build: Build) -> Path:
    """Return where doit keeps what it has done."""
    return build.out / ".doit.json"


def drop_damaged_state(build: Build) -> None:
    """Delete doit's file if it is not as doit writes it.

    It may have been cut short, and all it saves is looking at the files again.

    Raises
    ------
    InputError
        If it is no file.
    """
    path = state_file(build)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file, and in the way of what the build writes: move it")
    register(path)
    try:
        if not path.exists() or _is_state(read_json(path)):
            return
    except InputError:
        pass
    print(f"{path} was not whole and is written anew")
    path.unlink()


#: Entries of a task in doit's file; every other one is a file that the task depends on: time,
#: size, hash.
_ENTRIES: dict[str, type[Any] | tuple[type[Any], ...]] = {
    "_values_:": dict,
    "result:": (dict, str),
    "checker:": str,
    "deps:": list,
}


def _is_state(state: Any) -> bool:
    """Whether this has the shape of what doit keeps."""
    if not isinstance(state, dict) or not all(isinstance(task, dict) for task in state.values()):
        return False
    entries = [entry for task in state.values() for entry in task.items()]
    return all(
        isinstance(value, _ENTRIES[key])
        and (key != "deps:" or all(isinstance(name, str) for name in value))
        if key in _ENTRIES
        else isinstance(value, list)
        and list(map(type, value)) in ([float, int, str], [int, int, str])
        for key, value in entries
    )


# Execute -------------------------------------------------------------------


def _stat(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def results_file(build: Build, name: str) -> Path:
    """Return where a notebook records its numbers."""
    return build.out / "results" / f"{name}.json"


def list_outputs(out: Path) -> dict[str, list[int]]:
    """Return size and time of every file that notebooks have left in `out`, by relative path.

    They are those that the package has written. What others have put there, a log for example, is
    no one's output.
    """
    found = {}
    for name in sorted(written(out)):
        top = name.partition(os.sep)[0]
        if top in NOT_OUTPUTS or top.startswith(".") or os.path.basename(name).startswith("."):
            continue
        if stat := _seen(out / name):
            found[name] = stat
    return found


def run_record(build: Build, name: str) -> dict:
    """Return what is known of a notebook's runs, or nothing, also where the file is damaged.

    ``key``, ``seconds``, ``outputs`` (size and time by path), ``digests`` (SHA-256 by path) and
    ``kept`` (`_kept`) are of its last successful run; ``found`` are those of the outputs that were
    there and not written by that run: it resumed. While a run has not succeeded, ``begun`` says
    which files were there when the first such run began.
    """
    path = build.out / "exec" / f"{name}.json"
    return copy.copy(_read_record(path, tuple(_seen(path) or ())))


@lru_cache(maxsize=1000)
def _read_record(path: Path, _: tuple[int, ...]) -> dict:
    try:
        record = read_json(path)
        return record if _is_record(record) else {}
    except (InputError, OSError):
        return {}


#: The record of a notebook that has never succeeded.
NO_RUN: dict[str, Any] = {
    "key": "",
    "seconds": 0,
    "outputs": {},
    "digests": {},
    "kept": ["", ""],
    "found": [],
}


def _is_record(record: Any) -> bool:
    """Whether what a file says has the shape of a record."""

    def stats(value: Any) -> bool:
        return isinstance(value, dict) and all(
            isinstance(one, list) and [type(n) for n in one] == [int, int] for one in value.values()
        )

    def texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)

    return (
        isinstance(record, dict)
        and record.keys() - {"begun"} == NO_RUN.keys()
        and isinstance(record["key"], str)
        and type(record["seconds"]) in (int, float)
        and math.isfinite(record["seconds"])
        and stats(record["outputs"])
        and stats(record.get("begun", {}))
        and texts(record["kept"])
        and texts(record["found"])
        and isinstance(record["digests"], dict)
        and texts(list(record["digests"].values()))
        and record["digests"].keys() == record["outputs"].keys() >= set(record["found"])
    )


def execution_key(build: Build, name: str) -> str:
    """Return the hash of everything that a notebook's outputs follow from."""
    notebook = _source(name, build.root)
    cells = [[cell.source, "parameters" in tags(cell)] for cell in code_cells(notebook)]
    modules = set().union(
        *(imported_modules(python_lines(source), build.root) for source, _ in cells)
    )
    earlier = [other for other in chapters(build) if other < name]
    parameters = {key: value for key, value in build.parameters()[name].items() if key != "out"}
    parts = {
        "cells": cells,
        "parameters": parameters,
        "files": {key: _listed(parameters[key], build.out) for key in PATHS if parameters.get(key)},
        "modules": {
            path.relative_to(build.root).as_posix(): _module(path).code
            if path.suffix == ".py"
            else sha256(path)
            for path in module_files(build.root, modules)
        },
        "software": software(build.root),
        "threads": threads(),
        "screen": build.screen_state if reads_screen(notebook) else "",
        "features": build.features_state if "features" in known_parameters(notebook) else "",
        "earlier": {other: run_record(build, other).get("digests") for other in earlier},
        "recorded": {
            path.name: sha256(path) for path in recorded_files(build.root, cells, modules)
        },
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def software(root: Path = ROOT) -> dict[str, str]:
    """Return the version of Python, and of every package of ``requirements.*`` that is installed.

    These are the installed ones, whatever is asked for there.
    """
    installed = _installed(tuple(site.getsitepackages()))
    names = set().union(
        *(_required(path, tuple(_stat(path))) for path in root.glob("requirements.*"))
    )
    return {"python": sys.version, **{name: installed.get(name, "") for name in sorted(names)}}


@lru_cache(maxsize=10)
def _required(path: Path, stat: tuple[int, ...]) -> set[str]:
    return {
        _plain(name)
        for name in re.findall(
            r"^([\w.-]+)(?:\[.*\])?==", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=10)
def _installed(folders: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of the packages in some folders.

    They are told by the names of theirs, as to read what each says of itself takes long.
    """
    found: dict[str, str] = {}
    for folder in filter(os.path.isdir, folders):
        for name, version in re.findall(
            r"^(.+)-([^-]+)\.dist-info$", "\n".join(os.listdir(folder)), re.MULTILINE
        ):
            found.setdefault(_plain(name), version)
    return found


def threads() -> dict[str, str | int]:
    """Return what torch and NumPy take their number of threads from.

    Sums in another order end with other last bits.
    """
    facts = {
        name: os.environ.get(name, "")
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return {**facts, "cores": cores}


def reads_screen(notebook: NotebookNode) -> bool:
    """Whether a notebook may read the tables or images of a screen.

    It is told where they lie, or loads what another has noted of that.
    """
    names = {
        name.rpartition(".")[2]
        for cell in code_cells(notebook)
        for name in _imports(ast.walk(ast.parse(python_lines(cell.source))))
    }
    return bool({"screen", "data"} & known_parameters(notebook).keys() or "load_screen" in names)


def list_screen(build: Build) -> dict[str, Any]:
    """Return what is known of each file of a real screen without opening its images.

    Of tables that is the SHA-256, of others size and time. They are the images and functions that a
    table names, where they are found, or everything below ``DATA``; hidden files and the output
    folder do not count.
    """
    if build.screen not in SCREENS:
        tables = {path: sha256(Path(path)) for path in (build.screen, build.platemap) if path}
        return tables | {path: _seen(path) for path in _named_files(build)}
    if build.screen == "simulated" or not build.data:
        return {}
    return _listed(build.data, build.out)


def _listed(place: str, out: Path) -> dict[str, Any]:
    """Return the SHA-256 of tables and the size and time of other files.

    They are listed for a file or for what lies below a folder.
    """
    files = [place] if os.path.isfile(place) else _files_below(place, out)
    return {
        path.removeprefix(place): sha256(path) if TABLE.search(path) else _seen(path)
        for path in files
    }


#: Names of files that are read as tables or lists.
TABLE = re.compile(r"\.(csv|tsv|tab|txt|obo|gaf)(\.gz)?$", re.IGNORECASE)


def _seen(path: str | Path) -> list[int] | None:
    """Return size and time of a file, None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns]


def _named_files(build: Build) -> list[str]:
    """Return the files that the table of a screen names.

    There are none of what is no such table, which the notebook will say.
    """
    from mcnn_core.readers.loaddata import examine_loaddata  # takes a second to import

    pairs = dict(pair.partition("=")[::2] for pair in shlex.split(build.params))
    chosen = {key: pairs[key] for key in ("planes", "time") if key in pairs}
    try:
        way = reading.Reading.from_text(build.data, build.platemap, build.channels, **chosen)
        screen, _, _ = examine_loaddata(build.screen, reading=way)
    except InputError:
        return []
    table = screen.table
    channels = [name[9:] for name in table if name.startswith("FileName_")]
    named = {
        pair
        for channel in channels
        for pair in zip(table[f"PathName_{channel}"], table[f"FileName_{channel}"], strict=True)
    }
    return sorted(
        os.path.join(screen.root, folder, name)
        for folder, names in named
        for name in names.split("/")
    )


def _files_below(folder: str, out: Path) -> list[str]:
    """Return the files below a folder, sorted, links to folders followed once.

    Hidden ones and those below `out` are left out.
    """
    files: list[str] = []
    waiting, visited = [folder], {os.path.realpath(out)}
    while waiting:
        here = waiting.pop()
        if (real := os.path.realpath(here)) not in visited:
            visited.add(real)
            with os.scandir(here) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        (waiting if entry.is_dir() else files).append(entry.path)
    return sorted(files)


def module_files(root: Path, modules: set[str]) -> list[Path]:
    """Return the files that modules stand on: their code, and the data next to it.

    Data that bears the name of a module, such as the page of ``explore``, is that module's alone.
    """
    code = {path for name in modules if (path := module_file(name, root))}
    beside = [path for folder in {path.parent for path in code} for path in folder.iterdir()]
    others = {path.stem for path in beside if path.suffix == ".py"} - {path.stem for path in code}
    data = {
        path
        for path in beside
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.stem not in others
    }
    return sorted(code | data)


def recorded_files(root: Path, cells: list, modules: set[str]) -> list[Path]:
    """Return the files of ``book/recorded`` that a notebook shows.

    These are all if it reads the study, else those that it or a module that it imports names.
    """
    files = sorted((root / "book" / "recorded").glob("*.json"))
    code = [path for name in modules if (path := module_file(name, root))]
    sources = [source for source, _ in cells] + [_module(path).text for path in code]
    return [
        path
        for path in files
        if "mcnn_book.study" in modules or any(path.name in source for source in sources)
    ]


def python_lines(source: str) -> str:
    """Leave out IPython's own lines, which are no Python."""
    return "\n".join(
        line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))
    )


def _kept(build: Build, name: str) -> list[str]:
    """Return the SHA-256 of an executed notebook and of its numbers, "" for what is not there."""
    return [
        sha256(path) if path.exists() else ""
        for path in (build.out / "exec" / f"{name}.ipynb", results_file(build, name))
    ]


def is_current(build: Build, name: str) -> bool:
    """Whether the last run of a notebook still holds: same key, and its files as it left them."""
    record = run_record(build, name)
    if (
        not record
        or record["key"] != execution_key(build, name)
        or record["kept"] != _kept(build, name)
    ):
        return False
    for relative, stat in record["outputs"].items():
        path = build.out / relative
        if not path.is_file() or (
            _stat(path) != stat and sha256(path) != record["digests"][relative]
        ):
            return False
    return True


def _short_folder() -> str | None:
    """Return a folder for sockets, whose paths may have no more than 103 bytes.

    None is the usual one.
    """
    folders = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp"]
    return next(
        (
            folder
            for folder in folders
            if len(os.fsencode(folder)) <= 80 and os.access(folder, os.W_OK | os.X_OK)
        ),
        None,
    )


def _unformatted(path: Path) -> str:
    """Return a path as papermill takes it, which would fill in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def environment(build: Build, private: str) -> dict[str, str]:
    """Return the environment of kernels and of Sphinx.

    What leads Python, IPython, Jupyter and Matplotlib is the build's own. This repository's package
    comes first, whichever is installed; start-up files, settings and kernels of the user's are not
    looked for. `private` is a folder for this run alone. Matplotlib's list of fonts takes seconds
    to make and stays in the output folder.
    """
    led = ("PYTHON", "IPYTHON", "JUPYTER", "MPL", "MATPLOTLIB")
    text = ("PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in text or not name.startswith(led)
    }
    return kept | {
        "PYTHONPATH": str(build.root),
        "PYTHONNOUSERSITE": "1",
        "IPYTHONDIR": f"{private}/ipython",
        "JUPYTER_CONFIG_DIR": f"{private}/jupyter",
        "JUPYTER_DATA_DIR": f"{private}/jupyter",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": str(build.out / ".kernel"),
        "MATPLOTLIBRC": os.devnull,
    }


def kernel_manager(variables: dict[str, str]) -> type:
    """Return a class of kernels that are this interpreter's own.

    They run in an environment of the given variables, whatever kernels are installed.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class OwnKernelManager(AsyncKernelManager):
        kernel_spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
        )

        # asynchronous, as in AsyncKernelManager
        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            await super().start_kernel(**options | {"env": variables})

    return OwnKernelManager


def execute(build: Build, name: str) -> None:
    """Run one notebook with papermill into ``exec/<name>.ipynb``.

    A failed run leaves ``exec/<name>.failed.ipynb`` for reading and counts as no run.

    Raises
    ------
    RuntimeError
        If a cell fails, with the cell's own error and the place of the failed copy; or if
        the notebook changes a file that an earlier one left.
    """
    import papermill
    from traitlets.config import Config

    folder = build.out / "exec"
    folder.mkdir(parents=True, exist_ok=True)
    failed, done = folder / f"{name}.failed.ipynb", folder / f"{name}.ipynb"
    source = folder / f".{name}.source.ipynb"
    take(failed)
    with atomic(source) as temporary:
        temporary.write_text(nbformat.writes(read_source(name, build.root)), encoding="utf-8")
    before, key, start = list_outputs(build.out), execution_key(build, name), time.monotonic()
    record = run_record(build, name) or NO_RUN
    record = {"begun": before if record["key"] else {}} | record
    write_json(folder / f"{name}.json", record)
    print(f"{name}: running", flush=True)
    with tempfile.TemporaryDirectory(dir=_short_folder()) as private:
        # Sockets in a folder of this run's own: over TCP ipykernel warns, and over
        # IPC two runs that share a name wait for each other for ever.
        config = Config(
            {
                "KernelManager": {
                    "transport": "ipc",
                    "ip": f"{private}/kernel",
                    "connection_file": f"{private}/kernel.json",
                }
            }
        )
        try:
            papermill.execute_notebook(
                _unformatted(source),
                _unformatted(failed),
                build.parameters()[name],
                kernel_name="python3",
                cwd=build.root / "notebooks",
                progress_bar=False,
                stderr_file=sys.stderr,
                config=config,
                shutdown_kernel="immediate",
                # MCNN_BUILD: `mcnn_core.machine.files.in_build`
                kernel_manager_class=kernel_manager(
                    environment(build, private) | {"MCNN_BUILD": str(build.out)}
                ),
            )
        except Exception as error:
            if _interrupted(error):
                raise KeyboardInterrupt from error
            raise RuntimeError(
                f"notebook {name} failed.\n{error}\n"
                f"The executed copy, up to the failing cell: {failed}"
            ) from error
        finally:
            source.unlink()
    seconds = time.monotonic() - start
    register(*(build.out / ".kernel").glob("fontlist-*.json"))  # Matplotlib's cache (`environment`)
    after = list_outputs(build.out)
    written = {path for path, stat in after.items() if before.get(path) != stat}
    others = _owners(build, name)
    _take_over(build, name, written, others)
    if not results_file(build, name).exists():
        raise RuntimeError(
            f"notebook {name} recorded nothing: Workspace.record writes {results_file(build, name)}"
        )
    # What an interrupted run or the last one had left, and this one, which resumed, has left
    # as it was.
    found = (
        {
            path
            for path, stat in after.items()
            if path in record["outputs"] or record["begun"].get(path) != stat
        }
        - written
        - others.keys()
    )
    outputs = {path: after[path] for path in sorted(written | found)}
    digests = {path: sha256(build.out / path) for path in outputs}
    with atomic(done) as temporary:
        os.replace(failed, temporary)
    write_json(
        folder / f"{name}.json",
        {
            "key": key,
            "seconds": round(seconds, 1),
            "outputs": outputs,
            "digests": digests,
            "kept": _kept(build, name),
            "found": sorted(found),
        },
    )
    print(f"{name}: done in {seconds:.0f} s", flush=True)


def _interrupted(error: BaseException | None) -> bool:
    """Whether an error came of stopping: what the libraries make of their kernel's end."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _owners(build: Build, name: str) -> dict[str, str]:
    """Return for every file that is another notebook's output which one's."""
    return {
        path: other
        for other in notebook_names(build.root)
        if other != name
        for path in run_record(build, other).get("outputs", {})
    }


def _take_over(build: Build, name: str, written: set[str], others: dict[str, str]) -> None:
    """Strike files that a notebook has written from the records of some earlier ones.

    Those are the ones that only found them there.

    So are those that have no part in this build.

    Raises
    ------
    RuntimeError
        If an earlier notebook of this build has written one of the files itself.
    """
    names = chapters(build)
    earlier = {
        other: written & {path for path, owner in others.items() if owner == other}
        for other in set(others.values())
        if other < name
    }
    taken = sorted(
        path
        for other, paths in earlier.items()
        for path in (paths - set(run_record(build, other)["found"]) if other in names else ())
    )
    if taken:
        raise RuntimeError(
            f"notebook {name} changed files that an earlier notebook left: {', '.join(taken)}"
        )
    for other, paths in earlier.items():
        record = run_record(build, other)
        for part in ("outputs", "digests"):
            record[part] = {
                path: value for path, value in record[part].items() if path not in paths
            }
        record["found"] = [path for path in record["found"] if path not in paths]
        if paths:
            write_json(build.out / "exec" / f"{other}.json", record)


# Weave, merge, stage, render -----------------------------------------------


def holds(cell: NotebookNode, facts: dict) -> bool:
    """Whether a page shows a cell.

    Tags ``if:<key>`` and ``unless:<key>`` ask for results that are true and false.

    Raises
    ------
    InputError
        If a key is not a truth value among the results so far.
    """
    asked = [tag.partition(":") for tag in tags(cell) if tag.startswith(("if:", "unless:"))]
    wrong = [f"{kind}:{key}" for kind, _, key in asked if not isinstance(facts.get(key), bool)]
    if wrong:
        raise InputError("a tag of a cell must name a recorded truth value", wrong)
    return all(facts[key] == (kind == "if") for kind, _, key in asked)


def weave(
    source: NotebookNode,
    executed: NotebookNode,
    facts: dict | None = None,
    report: bool = False,
) -> NotebookNode:
    """Return `source` with the outputs of `executed`: present prose and tags, kept results.

    The parameters that were injected follow the parameters cell, hidden until asked for;
    papermill's time stamps are left out, and so are cells that `facts` do not call for (`holds`).
    The book leaves out what is tagged ``report``; a report has little else (`_reported`).
    """
    woven = copy.deepcopy(source)
    for cell, run in zip(code_cells(woven), code_cells(executed), strict=True):
        cell.outputs, cell.execution_count = run.outputs, run.execution_count
    if report:
        kept = _reported([cell for cell in woven.cells if holds(cell, facts or {})])
        return _with_cells(woven, kept)
    for run in executed.cells:
        if "injected-parameters" in tags(run):
            metadata = {
                "tags": ["injected-parameters", "hide-input"],
                "mystnb": {"code_prompt_show": "This run's parameters"},
            }
            # The output folder is a place on this machine, no setting.
            code = re.sub(r"^out = .*\n?", "", run.source, flags=re.MULTILINE)
            run = nbformat.from_dict(
                {**run, "id": "injected", "metadata": metadata, "source": code}
            )
            after = next(
                index for index, cell in enumerate(woven.cells) if "parameters" in tags(cell)
            )
            woven.cells.insert(after + 1, run)
            break
    shown = [
        cell for cell in woven.cells if "report" not in tags(cell) and holds(cell, facts or {})
    ]
    return _with_cells(woven, shown)


def _with_cells(notebook: NotebookNode, cells: list[NotebookNode]) -> NotebookNode:
    """Return a notebook with these cells, and in its metadata the labels that went with others."""
    before, now = (
        {label for cell in part for label in labels(cell)} for part in (notebook.cells, cells)
    )
    notebook.metadata["absent"] = sorted(before - now)
    notebook.cells = cells
    return notebook


#: Outputs of a cell that a page never shows.
UNSEEN = ("remove-cell", "remove-output", "parameters", "idea")


def _reported(cells: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Return what a report shows of a chapter.

    That are cells of code with outputs, their code folded; prose that is tagged ``report``; and
    the title, and the headings of what is left. Nothing else that was written for the book.
    """
    kept: list[NotebookNode] = []
    waiting: list[tuple[int, NotebookNode]] = []  # headings with nothing below them yet

    def keep(cell: NotebookNode) -> None:
        kept.extend(heading for _, heading in waiting)
        waiting.clear()
        kept.append(cell)

    for cell in cells:
        if cell.cell_type == "code":
            if not set(UNSEEN) & set(tags(cell)) and any(map(_seen_output, cell.outputs)):
                keep(_folded(cell))
            continue
        for number, (level, text) in enumerate(sections(cell.source)):
            piece = nbformat.from_dict({**cell, "id": f"{cell.id}-{number}", "source": text})
            if level == 1:
                keep(piece)
            elif level:
                waiting[:] = [one for one in waiting if one[0] < level] + [(level, piece)]
            elif "report" in tags(cell):
                keep(piece)
    return kept


def _seen_output(output: NotebookNode) -> bool:
    """Whether a page shows an output: neither a warning on the terminal nor a number glued."""
    if output.output_type == "stream":
        return output.name == "stdout"
    return not any("papermill.record" in kind for kind in output.get("data", {}))


def _folded(cell: NotebookNode) -> NotebookNode:
    """Return a cell of code whose code is hidden until asked for."""
    folded = copy.deepcopy(cell)
    folded.metadata["tags"] = [*{*tags(cell), "hide-input"}]
    folded.metadata.setdefault("mystnb", {})["code_prompt_show"] = "Show the code"
    return folded


def sections(text: str) -> list[tuple[int, str]]:
    """Split Markdown at its headings.

    Returns
    -------
    list of (int, str)
        In order, headings with their level and with the labels above them, and what stands between
        them, with 0.
    """
    parts: list[tuple[int, list[str]]] = []
    fence = ""
    above: list[str] = []  # labels that belong to the heading that follows, if one does
    for line in text.splitlines():
        heading = None if fence else re.match(r"(#+) ", line)
        mark = re.match(r" *(```+|~~~+|:::+)", line)
        if mark and (not fence or (line.strip() == fence)):
            fence = "" if fence else mark[1]
        if not fence and (re.fullmatch(r"\([\w-]+\)=", line) or (above and not line.strip())):
            above.append(line)
            continue
        if heading:
            parts.append((len(heading[1]), [*above, line]))
        elif above or not parts or parts[-1][0]:
            parts.append((0, [*above, line]))
        else:
            parts[-1][1].append(line)
        above = []
    parts += [(0, above)] if above else []
    joined = [(level, "\n".join(lines).strip("\n")) for level, lines in parts]
    return [(level, text) for level, text in joined if text.strip()]


def labels(cell: NotebookNode) -> list[str]:
    """Return what other pages may refer to in a cell: sections, exercises and figures."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    written = (
        re.findall(r"^(?:\(|:label: )([\w-]+)(?:\)=)?$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown"
        else []
    )
    return [*written, figure["name"]] if "name" in figure else written


def write_woven(build: Build, name: str) -> None:
    """Write the page of one notebook into the staged tree."""
    executed = nbformat.read(build.out / "exec" / f"{name}.ipynb", as_version=4)
    facts: dict[str, Any] = {}
    executed.cells = nbformat.from_dict(without_place(executed.cells, build.out))
    for earlier in chapters(build):
        facts |= read_json(results_file(build, earlier)) if earlier <= name else {}
    woven = weave(read_source(name, build.root), executed, facts, build.report)
    _write_if_changed(
        build.out / "src" / "notebooks" / f"{name}.ipynb", nbformat.writes(woven).encode()
    )


def without_place(value: Any, out: Path) -> Any:
    """Return what cells hold with the files of the output folder named relative to it.

    Pages are published, and tell of no one's disk.
    """
    if isinstance(value, str):
        names = "|".join(
            re.escape(name) for name in {str(out), html.escape(str(out)), quote(str(out))}
        )
        return re.sub(
            rf"(?<![\w./-])(?:file://)?(?:{names})(/|(?![\w.-]))",
            lambda found: "" if found[1] else "OUT",
            value,
        )
    if isinstance(value, dict):
        return {key: without_place(part, out) for key, part in value.items()}
    return [without_place(part, out) for part in value] if isinstance(value, list) else value


def merge_results(build: Build) -> None:
    """Write ``results.json``: every notebook's numbers, and ``run.*`` for what they come from."""
    from mcnn_book.workspace import provenance

    merged: dict = {}
    for name in chapters(build):
        merged |= read_json(results_file(build, name))
        merged[f"run.seconds.{name}"] = run_record(build, name)["seconds"]
    merged |= {f"run.{key}": value for key, value in provenance(build.root).items()}
    merged |= {
        "run.profile": build.profile,
        "run.screen": Path(build.screen).name,
        "run.seed": build.seed,
    }
    merged["run.parameters"] = build.params
    write_json(build.out / "results.json", merged)


def module_names(root: Path = ROOT) -> list[str]:
    """Return our modules, package after package, in alphabetical order."""
    return [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
        if not path.stem.startswith("_")
    ]


API_PAGE = """\
# `{module}`

{chapters}

```{{eval-rst}}
.. automodule:: {module}
   :members:
```
"""


def chapters_by_module(root: Path = ROOT) -> dict[str, list[str]]:
    """Return for every module the notebooks that import it.

    Modules come in the order they are met on the road.
    """
    users: dict[str, list[str]] = {}
    modules = module_names(root)
    for name in chapters(Build(root=root)):
        code = "\n".join(python_lines(cell.source) for cell in code_cells(_source(name, root)))
        for module in imported_directly(code, root):
            users.setdefault(module, []).append(name)
    return {
        module: users.get(module, [])
        for module in dict.fromkeys([*users, *modules])
        if module in modules
    }


def api_pages(root: Path = ROOT) -> dict[Path, str]:
    """Return the text of an API page for every module, and the rows that close their index."""
    pages, rows = {}, []
    for module, users in chapters_by_module(root).items():
        links = ", ".join(f"{{doc}}`/notebooks/{name}`" for name in users)
        chapters = (
            f"Used in {links}."
            if users
            else "No chapter imports this module itself; other modules build on it."
        )
        pages[Path("book/api", f"{module}.md")] = API_PAGE.format(module=module, chapters=chapters)
        path = module_file(module, root)
        assert path is not None  # it was listed
        purpose = (ast.get_docstring(ast.parse(_module(path).text)) or "").partition("\n")[0]
        rows.append(f"| {{doc}}`{module}` | {purpose} | {links} |")
    index = (root / "book/api/index.md").read_text(encoding="utf-8")
    table = "\n".join(["", "| module | in one line | chapters |", "|---|---|---|", *rows, ""])
    return pages | {Path("book/api/index.md"): index + table}


def prose_files(root: Path = ROOT) -> list[Path]:
    """Return every file that rendered pages take as it is."""
    inside = sorted(
        path
        for path in (root / "book").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    tables = [root / name for name in CONTENTS.values()]
    return [root / "_config.yml", *(path for path in tables if path.exists()), *inside]


def _write_if_changed(path: Path, content: bytes) -> None:
    for part in (*path.parents, path):
        if part.exists() and part.is_dir() == (part == path):
            raise InputError(
                f"{part} is {'a folder' if part == path else 'no folder'}, "
                "and in the way of what the build writes: move it"
            )
    try:
        same = path.read_bytes() == content
    except OSError:  # not there, or not to be read any more
        same = False
    if not same:
        with atomic(path) as temporary:
            temporary.write_bytes(content)


def _is_page(build: Build, path: Path) -> bool:
    """Whether the table of contents of a build names a file."""
    name = path.relative_to(build.root).with_suffix("").as_posix()
    return any(fnmatch(name, pattern) for pattern in contents(build))


def elsewhere(build: Build) -> dict[str, str]:
    """Return by label the title of its page, of pages that are in the book and not in this build.

    References to them are shown in words (``book/_ext/absent.py``).
    """
    found: dict[str, str] = {}
    pages = [*(build.root / "book").glob("*.md"), *(build.root / "notebooks").glob("*.md")]
    for path in sorted(pages):
        if not _is_page(build, path):
            text = path.read_text(encoding="utf-8")
            title = re.search(r"^# (.*)$", text, re.MULTILINE)
            named = re.findall(r"^(?:\(| *(?::label:|:name:|name:) )([\w-]+)", text, re.MULTILINE)
            found |= dict.fromkeys(named, title[1] if title else path.stem)
    return found


def stage(build: Build) -> None:
    """Mirror configuration, prose and API pages into ``src``; unchanged files keep their times.

    Paths stay as in the repository, and building a mirror keeps the pairs of notebooks from
    counting as duplicate pages. What others have put there stays, and is no part of the book.
    """
    source = build.out / "src"
    pages = {
        path.relative_to(build.root): path.read_bytes()
        for path in prose_files(build.root)
        if path.parent != build.root and (path.suffix != ".md" or _is_page(build, path))
    }
    pages[Path("_config.yml")] = (build.root / "_config.yml").read_bytes()
    pages[Path("_toc.yml")] = contents_file(build).read_bytes()
    pages[Path("elsewhere.json")] = json.dumps(elsewhere(build)).encode()
    if not build.report:
        pages |= {path: text.encode() for path, text in api_pages(build.root).items()}
    for relative, content in pages.items():
        _write_if_changed(source / relative, content)
    names, kept, others = chapters(build), {source / relative for relative in pages}, []
    for path in sorted(source.rglob("*")):
        if path.is_dir() or path.parent.name == "__pycache__":
            continue
        if not is_ours(path):
            others.append(str(path.relative_to(source)))
        elif (
            path.stem not in names
            if path.parent == source / "notebooks"
            else source / "book" in path.parents and path not in kept
        ):
            path.unlink()
    _write_if_changed(
        source / "conf.py", sphinx_configuration(source, build.screen, others).encode()
    )


def tree_hash(*paths: Path) -> str:
    """Return a hash of the names and the content of files, and of all below folders.

    What Python compiles is left out.
    """
    present = [
        file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))
    ]
    files = [file for file in present if file.is_file() and file.parent.name != "__pycache__"]
    return hashlib.sha256(
        json.dumps(
            [[str(file), sha256(file) if os.access(file, os.R_OK) else ""] for file in files]
        ).encode()
    ).hexdigest()


def sphinx_configuration(
    source: Path, screen: str = "simulated", others: Sequence[str] = ()
) -> str:
    """Return the ``conf.py`` that Jupyter Book makes of ``_config.yml``.

    The title of a report names its screen, and nothing in a report leads to the pages of the
    package, which it lacks. Files in `others`, relative to `source`, are no pages.
    """
    from jupyter_book.config import get_final_config

    settings, _ = get_final_config(
        user_yaml=source / "_config.yml",
        sourcedir=source,
        cli_config={"latex_individualpages": False},
    )
    # Sphinx takes these for patterns
    settings["exclude_patterns"] = [
        *settings["exclude_patterns"],
        *(re.sub(r"([\[*?])", r"[\1]", name) for name in others),
    ]
    if screen != "simulated":
        name = Path(screen).stem if screen not in SCREENS else screen
        settings["html_title"] += ": " + re.sub(r"[^\w .,()+-]", "_", name)
        settings["nitpick_ignore_regex"] = [("py:.*", ".*")]
    if not settings["html_theme_options"]["repository_url"]:  # the theme would fail without one
        settings["html_theme_options"]["launch_buttons"] = {}
    # Trees of millions of nodes that all stay: looking among them for garbage as often as usual
    # takes a fifth of the time.
    lines = [
        "import gc",
        "gc.set_threshold(3_000_000, 50, 1000)",
        "import sys",
        "from pathlib import Path",
        "sys.path.insert(0, str(Path(__file__).parent / 'book/_ext'))",
    ]
    lines += [f"{name} = {settings[name]!r}" for name in sorted(settings)]
    return "\n".join(lines) + "\n"


#: Sphinx, but at its end it leaves its trees to the system: to take millions of nodes apart one by
#: one takes a seventh of the time.
SPHINX = (
    "import os, sys; from sphinx.cmd.build import main; code = main(sys.argv[1:]); "
    "sys.stdout.flush(); sys.stderr.flush(); os._exit(code)"
)


def is_as_written(folder: Path, files: Any) -> bool:
    """Whether all files of a folder have the size and time, or else the SHA-256, that are listed.

    Others may have come to them.
    """
    try:
        return bool(files) and all(
            _stat(folder / name) == [size, time]
            or (size == _stat(folder / name)[0] and sha256(folder / name) == digest)
            for name, (size, time, digest) in files.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False  # missing; or what was kept is no such list


def render(build: Build) -> dict[str, dict]:
    """Build the pages with Sphinx, warnings being errors, and check that they stand alone.

    Only then they replace the old ones. Returns size, time and SHA-256 of every file that was
    written, by its relative path, under ``"pages"``.

    Raises
    ------
    RuntimeError
        If Sphinx warns or fails, or if a page would load something from the network.
    """
    source, html, figures = (build.out / name for name in ("src", "html", "figures"))
    for figure in figures.glob("*.png"):
        _write_if_changed(source / "figures" / figure.name, figure.read_bytes())
    print("book: rendering", flush=True)
    # All pages are read anew: of those that it has read before, Sphinx repeats no warning, and
    # their code loses its links.
    with tempfile.TemporaryDirectory() as private, atomic(html, "rendered book") as pages:
        command = [
            sys.executable,
            "-B",
            "-c",
            SPHINX,
            "-n",
            "-W",
            "--keep-going",
            "-q",
            "-E",
            "-a",
            "-b",
            "html",
            "-d",
            f"{private}/trees",
            source,
            pages / "html",
        ]
        ended = subprocess.run(
            [*map(str, command)],
            cwd=build.root,
            env=environment(build, private) | {"MCNN_OUT": str(build.out)},
        )
        remove(pages / "jupyter_execute")  # what MyST-NB leaves next to the pages
        for item in (pages / "html").iterdir() if (pages / "html").is_dir() else ():
            os.replace(item, pages / item.name)
        remove(pages / "html")
        remote = [] if ended.returncode else network_loads(pages)
        if ended.returncode or remote:
            raise RuntimeError(
                "\n".join(["the book was not rendered: see the warnings above", *remote])
            )
        write_notebooks(build, pages)
        if (build.out / "explore.html").exists():
            shutil.copy(build.out / "explore.html", pages)
        root_page = contents(build)[0]
        (pages / "index.html").write_text(
            f'<meta http-equiv="refresh" content="0; url={root_page}.html">\n', encoding="utf-8"
        )
        files = {
            path.relative_to(pages).as_posix(): [*_stat(path), sha256(path)]
            for path in pages.rglob("*")
            if path.is_file()
        }
    return {"pages": files}


def write_notebooks(build: Build, pages: Path) -> None:
    """Write the chapters as Jupyter can show them (``book/_ext/notebooks.py``)."""
    sources = {name: pages / "_sources/notebooks" / f"{name}.ipynb" for name in chapters(build)}
    notebooks = {name: nbformat.read(path, as_version=4) for name, path in sources.items()}
    leave_notebooks(build.out / "notebooks", notebooks)


def leave_notebooks(folder: Path, notebooks: dict[str, NotebookNode]) -> None:
    """Make a folder hold these notebooks, by name.

    Of those that it holds already, the ones that a reader has edited stay, and are named.
    """
    edited = [path.stem for path in sorted(folder.glob("*.ipynb")) if is_edited(path)]
    for path in folder.glob("*.ipynb"):
        if path.stem not in [*notebooks, *edited]:
            path.unlink()
    for name, notebook in notebooks.items():
        if name not in edited:
            notebook.metadata["written"] = _texts_hash(notebook)
            content = nbformat.writes(notebook) + "\n"
            _write_if_changed(folder / f"{name}.ipynb", content.encode())
    if kept := ", ".join(name for name in edited if name in notebooks):
        print(f"{folder} keeps what was edited there since it was written: {kept}")


def is_edited(path: Path) -> bool:
    """Whether a notebook is not as `leave_notebooks` left it, but for outputs and settings."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception:  # of whichever parser
        return True
    return not is_ours(path) or notebook.metadata.get("written") != _texts_hash(notebook)


def _texts_hash(notebook: NotebookNode) -> str:
    texts = [(cell.cell_type, cell.source) for cell in notebook.cells]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


LOADING = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
}
HARMLESS_LINKS = {"canonical", "author", "license", "search", "next", "prev", "index"}


class _Loads(HTMLParser):
    """Collects what the elements of a page would fetch from the network."""

    def __init__(self) -> None:
        super().__init__()
        self.remote: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at an element, closed at once or not."""
        attributes = dict(attrs)
        address = (attributes.get(LOADING.get(tag, "")) or "").strip()
        if address.lower().startswith(("http:", "https:", "//")) and not HARMLESS_LINKS & set(
            (attributes.get("rel") or "").split()
        ):
            self.remote.append(address)


def network_loads(html: Path) -> list[str]:
    """Return ``page: address`` for everything that would be fetched from the network.

    Pages and style sheets are looked at.
    """
    found = []
    for page in sorted(html.rglob("*.html")):
        loads = _Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        loads.close()  # or a last element that does not end would not be looked at
        found += [f"{page.relative_to(html)}: {address}" for address in loads.remote]
    for sheet in sorted(html.rglob("*.css")):
        text = sheet.read_text(encoding="utf-8", errors="replace")
        found += [
            f"{sheet.relative_to(html)}: {part.split(')')[0]}"
            for part in text.split("url(")[1:]
            if part.lstrip("'\"").startswith("http")
        ]
    return found


if __name__ == "__main__":
    with reporting():
        print(*sync_pairs(), sep="\n")
