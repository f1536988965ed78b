"""The graph of the book: execute, weave, merge, stage, render. Run by ``make book``.

Options come from the environment, where the Makefile puts them. Each output
folder keeps its own state, so that two of them never meet, and is built by one
process at a time.
"""

import sys
from contextlib import ExitStack

from doit.exceptions import TaskFailed
from doit.tools import config_changed

from mcnn_book.workspace import claim_output
from mcnn_core.errors import InputError
from mcnn_core.machine.files import exclusive
from tools import book

HELD = ExitStack()  # until the process ends
try:
    BUILD = book.Build.from_environment()
    BUILD.parameters()
    claim_output(BUILD.out, BUILD.root, **BUILD.sources())
    HELD.enter_context(exclusive(BUILD.out))
    book.drop_damaged_state(BUILD)
    for written in book.sync_pairs(BUILD.root):
        print(f"notebooks/{written} written anew, from its pair")
except (InputError, OSError) as error:
    sys.exit(f"error: {error}")
NAMES = book.chapters(BUILD)
EXEC, SRC, HTML = (BUILD.out / name for name in ("exec", "src", "html"))
DOIT_CONFIG = {
    "dep_file": str(book.state_file(BUILD)),
    "backend": "json",
    "default_tasks": ["render"],
    "verbosity": 2,
    "reporter": "error-only",
}


def step(function, *args, leaves=()):
    """Return an action that turns an expected failure into its message.

    It keeps what the function returns and a hash of what it leaves.
    """

    def act():
        try:
            return (function(*args) or {}) | {"left": book.tree_hash(*leaves)}
        except (RuntimeError, ValueError, OSError) as error:
            return TaskFailed(str(error))

    return act


def undamaged(*leaves):
    """Return whether what a step left is still so."""
    return lambda task, values: values.get("left") == book.tree_hash(*leaves)


def task_execute():
    """Run the notebooks one after another, each only if something it follows from has changed."""
    for index, name in enumerate(NAMES):
        yield {
            "name": name,
            "actions": [step(book.execute, BUILD, name)],
            "uptodate": [lambda task, values, name=name: book.is_current(BUILD, name)],
            "task_dep": [f"execute:{other}" for other in NAMES[:index]],
        }


def task_weave():
    """Lay the present prose over the outputs kept."""
    for index, name in enumerate(NAMES):
        page = SRC / "notebooks" / f"{name}.ipynb"
        yield {
            "name": name,
            "actions": [step(book.write_woven, BUILD, name, leaves=[page])],
            "uptodate": [undamaged(page)],
            "task_dep": [f"execute:{name}"],
            "file_dep": [
                f"notebooks/{name}.md",
                EXEC / f"{name}.ipynb",
                "tools/book.py",
                *(BUILD.out / "results" / f"{other}.json" for other in NAMES[: index + 1]),
            ],
            "targets": [page],
        }


def task_merge():
    """Merge every notebook's numbers into one flat file."""
    return {
        "actions": [step(book.merge_results, BUILD, leaves=[BUILD.out / "results.json"])],
        "task_dep": ["execute"],
        "file_dep": [EXEC / f"{name}.json" for name in NAMES]
        + [BUILD.out / "results" / f"{name}.json" for name in NAMES],
        "targets": [BUILD.out / "results.json"],
        "uptodate": [undamaged(BUILD.out / "results.json")],
    }


def task_stage():
    """Mirror prose, configuration and API pages."""
    sources = filter(None, map(book.module_file, book.module_names(BUILD.root)))
    pages = [SRC / "book", SRC / "conf.py", SRC / "_config.yml", SRC / "_toc.yml"]
    return {
        "actions": [step(book.stage, BUILD, leaves=pages)],
        "file_dep": [
            *book.prose_files(BUILD.root),
            *sources,
            *(f"notebooks/{name}.md" for name in NAMES),
            "tools/book.py",
        ],
        "targets": [SRC / "conf.py"],
        "uptodate": [config_changed(f"{BUILD.screen} {BUILD.features}"), undamaged(*pages)],
    }


def task_render():
    """Build the pages."""
    staged = [
        SRC / "conf.py",
        BUILD.out / "results.json",
        *(SRC / "notebooks" / f"{name}.ipynb" for name in NAMES),
    ]
    return {
        "actions": [step(book.render, BUILD)],
        "file_dep": task_stage()["file_dep"] + staged,
        "targets": [
            HTML / "index.html",
            *(BUILD.out / "notebooks" / f"{name}.ipynb" for name in NAMES),
        ],
        "uptodate": [lambda task, values: book.is_as_written(HTML, values.get("pages"))],
    }
