"""The build of the book: options, keys, weaving, staging, and one small book end to end."""

import ast
import copy
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import NOTEBOOK, small_repository

from mcnn_core.errors import InputError
from mcnn_core.machine.files import claim, discard, write_json
from tools import book

ROOT = Path(__file__).resolve().parents[1]

FIRST = NOTEBOOK.format(
    title="First",
    parameters='screen = ""',
    prose="It kept {result}`first.n` and {result}`first.n:.1f`.",
    code="from mcnn_core.machine.files import atomic\nfrom mcnn_book.workspace import Workspace\n\n"
    'space = Workspace(out, "01_first")\n'
    'space.record(n=seed + 1)\nwith atomic(space.path("kept.txt")) as temporary:\n'
    '    temporary.write_text("a" * (seed + 1))\n'
    "print(f\"kept in {space.path('kept.txt')} of {space.out}\")",
)
SECOND = NOTEBOOK.format(
    title="Second",
    parameters="epochs = 1",
    prose="See {doc}`01_first`.",
    code="import sys\n\nfrom mcnn_book import workspace\n\n"
    'space = workspace.Workspace(out, "02_second")\n'
    'print("no" + "ise", file=sys.stderr)\n'
    'space.record(length=len(space.need("kept.txt", notebook="01_first").read_text()) * epochs)',
)


@pytest.fixture
def small(tmp_path) -> Path:
    """Return a repository with this one's build, two notebooks and three modules."""
    return small_repository(
        tmp_path / "repository",
        FIRST,
        SECOND,
        "# Small\n\nOne is {result}`first.n`.\n",
        "tiny: {epochs: 2}\ndefault: {}\n",
    )


def options(root: Path, **given: str) -> book.Build:
    return book.Build.from_environment({"OUT": str(root / "_build"), **given}, root)


# Options -------------------------------------------------------------------


def test_parameters_come_from_profile_variables_and_params_in_that_order(small):
    plain = options(small, PROFILE="tiny", SEED="3").parameters()
    assert plain == {
        "01_first": {"out": str(small / "_build"), "seed": 3, "screen": "simulated"},
        "02_second": {"out": str(small / "_build"), "seed": 3, "epochs": 2},
    }
    assert (
        options(small, PROFILE="tiny", PARAMS="epochs=5").parameters()["02_second"]["epochs"] == 5
    )


def test_all_bad_options_are_named_at_once(small):
    with pytest.raises(InputError) as raised:
        options(small, PROFILE="huge", SCREEN="no.csv", DATA="nowhere", SEED="-1")
    assert [problem.split("=")[0] for problem in raised.value.problems] == [
        "PROFILE",
        "SCREEN",
        "DATA",
        "SEED",
    ]
    with pytest.raises(InputError, match="SCREEN=other: known are sim"):
        options(small, SCREEN="other")


def test_screen_and_data_become_absolute(small, monkeypatch):
    monkeypatch.chdir(small)
    (small / "plates.csv").touch()
    build = options(small, SCREEN="plates.csv", DATA="book", SURROGATE="Metadata_Plate")
    assert (build.screen, build.data) == (str(small / "plates.csv"), str(small / "book"))
    assert build.parameters()["01_first"]["screen"] == str(small / "plates.csv")


def test_tables_of_features_choose_the_pages_and_become_absolute(small, monkeypatch):
    monkeypatch.chdir(small)
    for name in ("a.csv", "b.parquet", "plates.csv"):
        (small / name).touch()
    alone, both = (
        options(small, FEATURES="a.csv, b.parquet", **given)
        for given in ({}, {"SCREEN": "plates.csv"})
    )
    assert alone.features == f"{small / 'a.csv'},{small / 'b.parquet'}"
    assert alone.report and both.report and not options(small).report
    assert [book.contents_file(build).name for build in (alone, both)] == [
        "_toc_features.yml",
        "_toc_report_features.yml",
    ]
    with pytest.raises(InputError) as raised:
        options(small, FEATURES="a.csv,no.csv", SCREEN="kimorph")
    assert [str(one).partition(": ")[2] for one in raised.value.problems] == [
        "only of screens of compounds",
        "there is no such file",
    ]


def test_a_changed_table_of_features_runs_its_own_chapter_alone(tmp_path):
    table, screen = tmp_path / "a.csv", tmp_path / "plates.csv"
    table.write_text("1")
    screen.write_text("Metadata_Plate\n")

    def keys():
        build = options(ROOT, FEATURES=str(table), SCREEN=str(screen), OUT=str(tmp_path / "out"))
        return {name: book.execution_key(build, name) for name in book.chapters(build)}

    before = keys()
    assert "21_features" in before and "08_mechanisms" in before
    table.write_text("2")
    now = keys()
    assert [name for name in now if now[name] != before[name]] == ["21_features"]
    only = options(ROOT, FEATURES=str(table), OUT=str(tmp_path / "out"))
    assert book.chapters(only) == ["21_features"]


# Pairs ---------------------------------------------------------------------


def pair(root: Path) -> tuple[Path, Path]:
    return root / "notebooks/01_first.md", root / "notebooks/01_first.ipynb"


def rewrite(paired: Path, **first: object) -> None:
    """Edit the first cell of an .ipynb as Jupyter would."""
    notebook = nbformat.read(paired, as_version=4)
    notebook.cells[0].update(first)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="kept out")]
    notebook.cells[1].metadata["scrolled"] = True
    nbformat.write(notebook, paired)


@pytest.mark.parametrize("newer", [0, 1])
def test_the_edited_file_of_a_pair_is_kept_whatever_the_times(small, newer):
    text, paired = pair(small)

    def sync() -> list[str]:
        if (path := (text, paired)[newer]).exists():
            os.utime(path, (2e9, 2e9))
        return book.sync_pairs(small)

    assert sync() == ["01_first.ipynb", "02_second.ipynb"] and sync() == []
    edit(text, "# First", "# Changed")
    assert sync() == ["01_first.ipynb"]
    assert nbformat.read(paired, as_version=4).cells[0].source == "# Changed"
    rewrite(paired)  # run, not edited
    assert sync() == ["01_first.ipynb"] and "kept out" not in paired.read_text()
    rewrite(paired, source="# Once again")
    assert sync() == ["01_first.md", "01_first.ipynb"]
    assert "# Once again" in text.read_text() and "kept out" not in paired.read_text()
    assert sync() == []
    paired.unlink()
    assert sync() == ["01_first.ipynb"]


def test_a_line_added_to_an_ipynb_is_a_line_added_to_its_md(tmp_path):
    name = "08_mechanisms"
    text, paired = (tmp_path / "notebooks" / f"{name}{end}" for end in (".md", ".ipynb"))
    text.parent.mkdir()
    shutil.copy(ROOT / "notebooks" / text.name, text)
    notebook = json.loads(book.paired_text(name, tmp_path))
    cell = next(cell for cell in notebook["cells"] if "idea" in cell["metadata"].get("tags", []))
    cell["source"].append("\nprint('one line more')")
    paired.write_text(json.dumps(notebook))
    before = text.read_text().splitlines()
    assert sorted(book.sync_pairs(tmp_path)) == [paired.name, text.name]
    after = text.read_text().splitlines()
    added = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert added == ["+ print('one line more')"]


def test_a_pair_edited_on_both_sides_is_refused_and_either_can_be_kept(small):
    text, paired = pair(small)
    book.sync_pairs(small)
    edit(text, "# First", "# Mine")
    rewrite(paired, source="# Yours")
    edit(small / "notebooks/02_second.md", "# Second", "# Changed")
    before = [path.read_bytes() for path in sorted((small / "notebooks").iterdir())]
    with pytest.raises(InputError, match="nothing was written") as raised:
        book.sync_pairs(small)
    assert len(raised.value.problems) == 1 and raised.value.problems[0].startswith(
        "01_first: its .md and its .ipynb have both been edited"
    )
    assert [path.read_bytes() for path in sorted((small / "notebooks").iterdir())] == before
    command = (
        raised.value.problems[0]
        .partition(".venv/bin/")[2]
        .removesuffix(" overwrites the .md")
        .split()
    )
    subprocess.run([sys.executable, "-m", *command], cwd=small, check=True, capture_output=True)
    assert (
        book.sync_pairs(small) == ["01_first.ipynb", "02_second.ipynb"]
        and "# Yours" in text.read_text()
    )
    edit(text, "# Yours", "# Mine")
    rewrite(paired, source="# Theirs")
    paired.rename(small / "aside.ipynb")
    assert book.sync_pairs(small) == ["01_first.ipynb"] and "# Mine" in paired.read_text()


def test_a_pair_that_was_never_in_step_is_refused(small):
    _, paired = pair(small)
    notebook = book.read_source("01_first", small)
    nbformat.write(notebook, paired)
    assert book.sync_pairs(small) == ["01_first.ipynb", "02_second.ipynb"]  # it says the same
    notebook.cells[0].source = "# Other"
    nbformat.write(notebook, paired)
    with pytest.raises(InputError, match="01_first: "):
        book.sync_pairs(small)


@pytest.mark.parametrize("content", [
    '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
    '{"metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "[]", "7", "", "{", "\xff",
    '{"metadata": {}, "nbformat": 3, "nbformat_minor": 0, "worksheets": [{"cells": []}]}',
    "<<<<<<< HEAD",
    '{"cells": [5], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
    '{"cells": {"a": 1}, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
])  # fmt: skip
def test_an_ipynb_that_is_no_notebook_with_cells_is_refused_and_nothing_is_lost(small, content):
    text, paired = pair(small)
    book.sync_pairs(small)
    before = text.read_bytes()
    paired.write_text(content, encoding="latin-1")
    os.utime(text, (0, 0))
    with pytest.raises(
        InputError, match=r"01_first\.ipynb: .*; mend it, or move it away"
    ) as raised:
        book.sync_pairs(small)
    assert (
        len(raised.value.problems) == 1
        and text.read_bytes() == before
        and paired.read_text(encoding="latin-1") == content
    )


@pytest.mark.parametrize(
    "content, said",
    [
        ("", "it has no cells"),
        ("---\njupytext: [\n---\n\n# A\n", "while parsing"),
        ("\xff", "utf-8"),
    ],
)
def test_a_text_that_is_no_notebook_is_refused_and_its_pair_is_kept(small, content, said):
    text, paired = pair(small)
    book.sync_pairs(small)
    before = paired.read_bytes()
    text.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=f"01_first.md is no notebook in MyST Markdown: .*{said}"):
        book.sync_pairs(small)
    assert paired.read_bytes() == before


# Keys ----------------------------------------------------------------------


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_key_follows_code_parameters_and_modules_but_not_prose(small):
    def keys(**given):
        return [
            book.execution_key(options(small, **given), name) for name in ("01_first", "02_second")
        ]

    before = keys()
    edit(small / "notebooks/01_first.md", "It kept", "It has kept")
    (small / "mcnn_core/unused.py").write_text("")
    assert keys() == before
    assert keys(OUT=str(small / "other")) == before
    assert [one == other for one, other in zip(keys(PARAMS="epochs=7"), before, strict=True)] == [
        True,
        False,
    ]
    edit(small / "notebooks/02_second.md", "* epochs", "* epochs * 1")
    assert [one == other for one, other in zip(keys(), before, strict=True)] == [True, False]
    # Imported through workspace.
    edit(small / "mcnn_core/errors.py", "SHOWN, KEPT = 20", "SHOWN, KEPT = 21")
    assert keys()[0] != before[0]


def test_key_follows_what_a_module_does_and_not_how_it_is_told(small):
    def keys():
        return [book.execution_key(options(small), name) for name in ("01_first", "02_second")]

    files, before = small / "mcnn_core/machine/files.py", keys()
    edit(files, '"""Writing files so that', '"""Writing of files so that')
    edit(files, "import errno\n", "import errno  # another comment\n\n")
    assert keys() == before
    edit(files, ".hexdigest()[:8]", ".hexdigest()[:9]")
    assert keys()[0] != before[0]


def test_key_follows_sub_modules_and_data_of_the_package(small):
    """A module of a sub-package, the package's own code, and a table beside the modules."""

    def key():
        return book.execution_key(options(small), "01_first")

    package = small / "mcnn_core" / "analysis"
    package.mkdir()
    layout = small / "mcnn_book/layout.csv"
    (package / "__init__.py").write_text("from mcnn_core.analysis import deep\n")
    (package / "deep.py").write_text("n = 1\n")
    layout.write_text("a\n")
    edit(
        small / "mcnn_book/workspace.py",
        "import math\n",
        "import math\nimport mcnn_core.analysis\n",
    )
    seen = [key()]
    for path, text in (
        (package / "deep.py", "n = 2\n"),
        (package / "__init__.py", "from mcnn_core.analysis import deep\nm = 1\n"),
        (layout, "b\n"),
        (small / "mcnn_core/__init__.py", "k = 1\n"),
    ):
        path.write_text(text)
        seen.append(key())
    assert len(set(seen)) == 5
    (package / "unused.py").write_text("n = 1\n")
    assert key() == seen[-1]


OFFERING = """\
PUBLIC: dict[str, str] = {"fit": "analysis.deep"}
MODULES: dict[str, str] = {"other": "analysis.other"}
def __getattr__(name):
    raise AttributeError
"""


@pytest.mark.parametrize("line, module", [
    ("from mcnn_core import fit", "deep"), ("from mcnn_core import other as x", "other"),
])  # fmt: skip
def test_key_follows_what_a_package_offers_to_the_module_that_defines_it(small, line, module):
    """It follows that module and what it imports, and nothing else that the package offers."""
    package = small / "mcnn_core" / "analysis"
    package.mkdir()
    offers = package.parent / "__init__.py"
    offers.write_text(OFFERING)
    for name in ("__init__", "deep", "other"):
        (package / f"{name}.py").write_text("n = 1\n")
    (package / "below.py").write_text("n = 1\n")
    edit(package / f"{module}.py", "n = 1", "import mcnn_core.analysis.below")
    edit(small / "notebooks/01_first.md", "from mcnn_book", f"{line}\nfrom mcnn_book")

    def key():
        return book.execution_key(options(small), "01_first")

    seen = [key()]
    unlike = {"deep": "other", "other": "deep"}[module]
    edit(package / f"{unlike}.py", "n = 1", "n = 2")
    edit(offers, "PUBLIC: dict[str, str] = {", 'PUBLIC: dict[str, str] = {"new": "screen", ')
    assert key() == seen[0]
    (package / f"{module}.py").write_text("import mcnn_core.analysis.below\nm = 2\n")
    seen.append(key())
    (package / "below.py").write_text("n = 2\n")
    seen.append(key())
    edit(offers, f"analysis.{module}", f"analysis.{unlike}")
    seen.append(key())
    edit(offers, "raise AttributeError", "raise KeyError")
    seen.append(key())
    assert len(set(seen)) == 5
    whole = book.imported_directly("import mcnn_core", small)
    assert f"mcnn_core.analysis.{unlike}" in whole


def test_few_modules_run_most_of_the_book_again():
    """What runs 15 or more of the notebooks again is listed; none is added without a reason."""
    widely = {module for module, count in book.reruns().items() if count >= 15}
    steps = ("columns", "errors", "screen", "store", "profiles")
    readers = ("formats", "images", "reading", "spelling", "tables", "zarr_array")
    assert widely == {
        *("mcnn_core", "mcnn_core.machine.files", *(f"mcnn_core.{name}" for name in steps)),
        *(f"mcnn_core.readers.{name}" for name in readers),
        *("mcnn_core.analysis.distances", "mcnn_core.analysis.mechanisms"),
        *(f"mcnn_book{name}" for name in ("", ".figures", ".pictures", ".workspace")),
    }


def test_recorded_files_count_where_a_module_names_them(small):
    (small / "book/recorded").mkdir()
    for name in ("bench.json", "other.json"):
        (small / "book/recorded" / name).write_text("{}")
    (small / "mcnn_book/cost.py").write_text('NAME = "bench.json"\n')
    found = book.recorded_files(small, [["from mcnn_book import cost", False]], {"mcnn_book.cost"})
    assert [path.name for path in found] == ["bench.json"]


def test_modules_are_followed_through_imports(small):
    (small / "mcnn_core/deep.py").write_text("import mcnn_core.machine.files\n")
    assert book.imported_directly("from mcnn_core import deep, __version__", small) == [
        "mcnn_core",
        "mcnn_core.deep",
    ]
    assert book.imported_modules("from mcnn_core.deep import x\nimport numpy", small) == {
        "mcnn_core",
        "mcnn_core.deep",
        "mcnn_core.errors",
        "mcnn_core.machine",
        "mcnn_core.machine.files",
    }
    assert book.imported_directly("from mcnn_core import InputError", small)[-1] == (
        "mcnn_core.errors"
    )


def real_screen(small: Path) -> Path:
    """Put a table of one field with two channels beside the repository; return its path."""
    folder = small.parent / "data"
    (folder / "images").mkdir(parents=True)
    for name in ("a.tif", "b.tif", "other.tif"):
        (folder / "images" / name).write_text(name)
    (folder / "plates.csv").write_text(
        "FileName_A,PathName_A,Image_FileName_B,Image_PathName_B\na.tif,images,b.tif,images\n"
    )
    return folder / "plates.csv"


@pytest.mark.parametrize("screen, changed", [
    ("csv", "plates.csv"), ("csv", "images/a.tif"), ("csv", "images/b.tif"),
    ("bbbc021", "plates.csv"), ("kimorph", "images/a.tif"), ("bbbc021", "images/other.tif"),
    ("bbbc021", "Week2/new.tif"), ("kimorph", "elsewhere/new.tif"),
])  # fmt: skip
def test_key_follows_the_images_and_tables_of_a_screen(small, screen, changed):
    table = real_screen(small)
    (small.parent / "elsewhere").mkdir()
    (table.parent / "elsewhere").symlink_to(small.parent / "elsewhere")
    (small.parent / "elsewhere/round").symlink_to(table.parent)
    given = (
        {"SCREEN": str(table)}
        if screen == "csv"
        else {"SCREEN": screen, "DATA": str(table.parent), "OUT": str(table.parent / "book")}
    )

    def keys():
        return [
            book.execution_key(options(small, **given), name) for name in ("01_first", "02_second")
        ]

    before = keys()
    # Of no account.
    for name in (
        "book/log.txt",
        ".hidden",
        *(["images/other.tif"] if screen == "csv" else []),
    ):
        (table.parent / name).parent.mkdir(exist_ok=True)
        (table.parent / name).write_text("changed")
    assert keys() == before
    path = table.parent / changed
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "new")[::-1])
    os.utime(path, ns=(1, 1))
    assert [one == other for one, other in zip(keys(), before, strict=True)] == [False, True]


def test_key_follows_files_that_parameters_name(small):
    edit(small / "notebooks/02_second.md", "epochs = 1", 'epochs = 1\nobo = ""\nreal = ""')
    (small / "real").mkdir()
    for path in (small / "go.obo", small / "real/distances.csv"):
        path.write_text("1")
        keys = set()
        for text in ("1", "2"):
            path.write_text(text)
            os.utime(path, ns=(1, 1))
            keys.add(
                book.execution_key(
                    options(small, PARAMS=f"obo={small / 'go.obo'} real={small / 'real'}"),
                    "02_second",
                )
            )
        assert len(keys) == 2


def test_key_follows_who_loads_a_screen(small):
    table = real_screen(small)
    (small / "mcnn_core/screen.py").write_text("load_screen = None\n")
    edit(
        small / "notebooks/02_second.md",
        "from mcnn_book import workspace",
        "from mcnn_book import workspace\nfrom mcnn_core.screen import load_screen",
    )
    before = book.execution_key(options(small, SCREEN=str(table)), "02_second")
    (table.parent / "images/a.tif").unlink()
    assert book.execution_key(options(small, SCREEN=str(table)), "02_second") != before


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"\xff\xfe", b"FileName_A,PathName_A\nx\n\n\0.tif,images\n"]
)
def test_a_table_that_is_none_has_a_key(small, content):
    table = real_screen(small)
    table.write_bytes(content)
    assert book.execution_key(options(small, SCREEN=str(table)), "01_first")


def test_key_follows_installed_versions_and_threads(small, monkeypatch):
    def keys():
        return {book.execution_key(options(small), name) for name in ("01_first", "02_second")}

    assert {"numpy", "torch", "python"} <= {
        name for name, version in book.software(small).items() if version
    }
    before = keys()
    (small / "requirements.txt").write_text(
        "# the same packages\n" + (small / "requirements.txt").read_text()
    )
    assert keys() == before
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert not keys() & before
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(book, "_installed", lambda folders: {"numpy": "0.1"})
    assert not keys() & before


# Records -------------------------------------------------------------------


RESUMING = NOTEBOOK.format(
    title="First", parameters="stop = False", prose="",
    code="""\
from mcnn_core.machine.files import atomic
from mcnn_book.workspace import Workspace

space = Workspace(out, "01_first")
for name in ("a.bin", "b.bin"):
    path = space.path("model") / name
    if not path.exists() or path.read_bytes() != b"whole":
        with atomic(path) as temporary:
            temporary.write_bytes(b"whole")
    if stop:
        raise KeyError("stopped")
space.record(n=1)""",
)  # fmt: skip


def claimed(root: Path, **given: str) -> book.Build:
    build = options(root, **given)
    claim(build.out, "output folder")
    return build


@pytest.mark.parametrize("finished_before", [False, True])
def test_a_resumed_notebook_stands_on_what_it_found_finished(small, finished_before):
    (small / "notebooks/01_first.md").write_text(RESUMING)
    build, stopped = claimed(small), claimed(small, PARAMS="stop=True")
    if finished_before:  # with other files than it leaves now
        (small / "notebooks/01_first.md").write_text(RESUMING.replace("a.bin", "c.bin"))
        book.execute(build, "01_first")
        (small / "notebooks/01_first.md").write_text(RESUMING)
    with pytest.raises(RuntimeError, match="stopped"):
        book.execute(stopped, "01_first")
    assert not book.is_current(build, "01_first") and not book.is_current(stopped, "01_first")
    (build.out / "log.txt").write_text("of no account")
    book.execute(build, "01_first")
    assert book.is_current(build, "01_first")
    record = book.run_record(build, "01_first")
    assert (
        {"model/a.bin", "model/b.bin"} <= set(record["outputs"])
        and "log.txt" not in record["outputs"]
        and "begun" not in record
    )
    a = build.out / "model/a.bin"
    for damage in (lambda: a.write_bytes(b"whold"), a.unlink):
        damage()
        assert not book.is_current(build, "01_first")
        book.execute(build, "01_first")
        assert book.is_current(build, "01_first") and a.read_bytes() == b"whole"


def test_files_whose_record_is_lost_go_to_who_writes_them(small):
    later = NOTEBOOK.format(
        title="Second",
        parameters="",
        prose="",
        code="""\
from mcnn_core.machine.files import write_json
from mcnn_book.workspace import Workspace

space = Workspace(out, "02_second")
write_json(space.path("mine.json"), [])
space.record(n=2)""",
    )
    (small / "notebooks/02_second.md").write_text(later)
    build = claimed(small)

    def run_what_is_not_current():
        ran = []
        for name in book.notebook_names(small):
            if not book.is_current(build, name):
                book.execute(build, name)
                ran.append(name)
        return ran

    assert run_what_is_not_current() == ["01_first", "02_second"]
    for name in ("01_first", "02_second"):
        (build.out / f"exec/{name}.json").write_text("[]")
    assert run_what_is_not_current() == ["01_first", "02_second"]
    run_what_is_not_current()
    assert run_what_is_not_current() == []
    assert list(book.run_record(build, "02_second")["outputs"]) == ["mine.json"]
    assert list(book.run_record(build, "01_first")["outputs"]) == ["kept.txt"]


def test_a_notebook_that_changes_an_earlier_one_s_file_is_refused(small):
    edit(
        small / "notebooks/02_second.md",
        "space.record(",
        "from mcnn_core.machine.files import write_json\n"
        "write_json(space.path('kept.txt'), 1)\nspace.record(",
    )
    build = claimed(small, PARAMS="epochs=1")
    book.execute(build, "01_first")
    with pytest.raises(
        RuntimeError, match=r"02_second changed files that an earlier notebook left: kept\.txt"
    ):
        book.execute(build, "02_second")


def test_what_others_write_into_the_output_folder_meanwhile_is_nobodys(small):
    foreign = (
        "import pathlib\nfrom mcnn_core.machine.files import atomic\n"
        "with open(pathlib.Path(out, 'log.txt'), 'a') as log:\n    log.write('a line')\n"
    )
    foreign += (
        "for name in ('check.html', 'check.json'):\n"
        "    with atomic(pathlib.Path(out, name)) as temporary:\n        temporary.touch()\n"
    )
    for name in ("01_first", "02_second"):
        edit(small / f"notebooks/{name}.md", "space.record(", foreign + "space.record(")
    build = claimed(small, PARAMS="epochs=1")
    for name in ("01_first", "02_second"):
        book.execute(build, name)
    (build.out / "log.txt").write_text("goes on")
    (build.out / "check.html").unlink()
    assert [
        list(book.run_record(build, name)["outputs"]) for name in ("01_first", "02_second")
    ] == [["kept.txt"], []]
    assert book.is_current(build, "01_first") and book.is_current(build, "02_second")


RECORD = {
    "key": "k",
    "seconds": 1.5,
    "outputs": {"a": [1, 2]},
    "digests": {"a": "d"},
    "kept": ["x", "y"],
    "found": ["a"],
}


@pytest.mark.parametrize("other", [
    [], 3, None, "text", {}, {"key": "k"}, *({**RECORD, key: value} for key, value in [
        ("key", 3), ("seconds", "1"), ("seconds", True), ("outputs", []),
        ("outputs", {"a": 1}), ("outputs", {"a": ["1", "2"]}), ("outputs", {}),
        ("digests", {}), ("digests", {"a": 1}), ("kept", None), ("kept", [1]),
        ("found", ["b"]), ("found", "a"), ("found", [[]]), ("begun", []), ("more", 1)]),
])  # fmt: skip
def test_a_record_of_another_shape_is_none(small, other):
    build = options(small)
    write_json(build.out / "exec/01_first.json", RECORD)
    assert book.run_record(build, "01_first") == RECORD
    write_json(build.out / "exec/01_first.json", other)
    assert book.run_record(build, "01_first") == {}
    assert not book.is_current(build, "01_first") and book.execution_key(build, "02_second")


SHOWING = NOTEBOOK.format(
    title="First", parameters="", prose="",
    code="""\
import os
import sys

import matplotlib.pyplot as plt

import mcnn_core
from mcnn_book.workspace import Workspace

space = Workspace(out, "01_first")
space.record(package=mcnn_core.__file__, started="started" in globals(), interpreter=sys.executable)
space.record(size=plt.rcParams["font.size"], locale=os.environ["LC_ALL"])
plt.plot([1, 2]);""",
)  # fmt: skip


def test_a_kernel_sees_nothing_of_the_users_settings(small, tmp_path, monkeypatch):
    (small / "notebooks/01_first.md").write_text(SHOWING)
    home = tmp_path / "home"
    for name, text in {
        "ipython/profile_default/startup/00.py": "started = True",
        "matplotlib/matplotlibrc": "font.size: 99", "startup.py": "started = True",
        "share/kernels/python3/kernel.json": json.dumps(
            {"argv": ["false"], "display_name": "x", "language": "python"}),
        "clone/mcnn_core/__init__.py": "raise ImportError('the other clone')",
        "home/.config/matplotlib/matplotlibrc": "font.size: 98",
    }.items():  # fmt: skip
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    given = {"IPYTHONDIR": "ipython", "MPLCONFIGDIR": "matplotlib", "MATPLOTLIBRC": "matplotlib",
             "PYTHONSTARTUP": "startup.py", "JUPYTER_PATH": "share", "JUPYTER_DATA_DIR": "share",
             "PYTHONPATH": "clone", "HOME": "home"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, str(home / value))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    build = claimed(small)
    book.execute(build, "01_first")
    assert json.loads((build.out / "results/01_first.json").read_text()) == {
        "first.package": str(small / "mcnn_core/__init__.py"), "first.started": False,
        "first.interpreter": sys.executable, "first.size": 10.0,
        "first.locale": "C.UTF-8"}  # fmt: skip
    shown = nbformat.read(build.out / "exec/01_first.ipynb", as_version=4).cells[-1].outputs
    assert any("image/png" in output.get("data", {}) for output in shown)


# Weaving -------------------------------------------------------------------


def executed(source: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return what papermill makes of a notebook: outputs, a cell more, time stamps."""
    run = copy.deepcopy(source)
    for count, cell in enumerate(book.code_cells(run), 1):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", text=f"output {count}")]
        cell.metadata["papermill"] = {"start_time": "2000-01-01"}
    injected = nbformat.v4.new_code_cell(
        "seed = 9", metadata={"tags": ["injected-parameters"], "papermill": {}}
    )
    run.cells.insert(2, injected)
    return run


def test_weave_lays_new_prose_over_kept_outputs(small):
    run = executed(book.read_source("01_first", small))
    edit(small / "notebooks/01_first.md", "# First", "New words before.\n\n# First, told anew")
    woven = book.weave(book.read_source("01_first", small), run)
    nbformat.validate(woven)
    assert woven.cells[0].source.endswith("told anew")
    assert [cell.outputs[0].text for cell in book.code_cells(woven)] == ["output 1", "output 2"]
    injected = woven.cells[2]
    assert injected.source == "seed = 9" and "hide-input" in injected.metadata.tags
    assert "papermill" not in json.dumps(woven) and "start_time" not in json.dumps(woven)


def test_pages_name_files_relative_to_the_output_folder():
    out = Path("/home/me/a & b")
    told = {
        "text": "in /home/me/a & b/x.csv, /home/me/a & b, /home/me/a & bc/x "
        "and /mnt/home/me/a & b/x",
        "deep": [{"html": "<p>/home/me/a &amp; b/y"}],
        "uri": "file:///home/me/a%20%26%20b/z",
        "n": 3,
    }
    assert book.without_place(told, out) == {
        "text": "in x.csv, OUT, /home/me/a & bc/x and /mnt/home/me/a & b/x",
        "deep": [{"html": "<p>y"}],
        "uri": "z",
        "n": 3,
    }


def test_weave_does_not_tell_where_a_book_was_built(small):
    run = executed(book.read_source("01_first", small))
    run.cells[2].source = '# Parameters\nseed = 9\nout = "/home/me/book"\n'
    woven = book.weave(book.read_source("01_first", small), run)
    assert woven.cells[2].source == "# Parameters\nseed = 9\n"


def test_weave_refuses_other_code(small):
    run = executed(book.read_source("01_first", small))
    run.cells.append(nbformat.v4.new_code_cell("more = 1"))
    with pytest.raises(ValueError):
        book.weave(book.read_source("01_first", small), run)


def test_weave_shows_what_the_results_call_for(small):
    text = (
        NOTEBOOK.format(title="First", parameters="x = 1", prose="Kept.", code="1")
        .replace(
            "Kept.\n",
            """Kept.

+++ {"tags": ["if:first.big"]}

(section-big)=
Big.

+++ {"tags": ["unless:first.big", "if:first.whole"]}

Small.

```{exercise}
:label: ex-small
```

""",
        )
        .replace(
            "```{code-cell} ipython3\n1\n",
            '```{code-cell} ipython3\n---\ntags: ["unless:first.big"]\n'
            "mystnb:\n  figure:\n    name: fig-small\n---\n1\n",
        )
    )
    (small / "notebooks/01_first.md").write_text(text)
    source = book.read_source("01_first", small)
    shown = {
        big: book.weave(source, copy.deepcopy(source), {"first.big": big, "first.whole": True})
        for big in (True, False)
    }
    said = {big: "".join(cell.source for cell in page.cells) for big, page in shown.items()}
    assert (
        "Big." in said[True]
        and "Small." not in said[True]
        and shown[True].metadata["absent"] == ["ex-small", "fig-small"]
    )
    assert (
        "Big." not in said[False]
        and "Small." in said[False]
        and shown[False].metadata["absent"] == ["section-big"]
    )
    assert len(book.code_cells(shown[True])) + 1 == len(book.code_cells(shown[False]))
    for facts in ({}, {"first.big": "True"}):
        with pytest.raises(InputError, match="must name a recorded truth value") as raised:
            book.weave(source, copy.deepcopy(source), facts)
        assert raised.value.problems[0] == "if:first.big"


def test_a_text_is_split_at_its_headings_and_not_in_fences():
    text = """\
(chapter)=
# Title

Words
(not a label)= of it.

```bash
# no heading
```

:::{note}
## none either
:::

(part)=

## Part
### Deeper
End."""
    parts = book.sections(text)
    assert [level for level, _ in parts] == [1, 0, 2, 3, 0]
    assert parts[0][1] == "(chapter)=\n# Title" and parts[2][1] == "(part)=\n\n## Part"
    assert "no heading" in parts[1][1] and "none either" in parts[1][1]
    assert book.sections("\n\n") == [] and book.sections("(a)=") == [(0, "(a)=")]


REPORTED = (
    NOTEBOOK.format(title="First", parameters="x = 1", prose="PROSE", code="1")
    .replace("# First\n", "(first)=\n# First\n\nAbout the book.\n")
    .replace(
        "PROSE\n",
        """\
## Empty

Prose of the book.

(section-full)=
## Full

More prose.

### Empty below

Prose.

+++ {"tags": ["report"]}

Of the report.

+++ {"tags": ["report", "if:first.big"]}

Big.

```{code-cell} ipython3
:tags: [remove-output]

setting_up = 1
```

```{code-cell} ipython3
:tags: [idea]

shown_in_the_book = 1
```
""",
    )
)


def test_a_report_keeps_headings_of_what_it_keeps_outputs_and_what_is_written_for_it(small):
    (small / "notebooks/01_first.md").write_text(REPORTED)
    source = book.read_source("01_first", small)
    page = book.weave(source, executed(source), {"first.big": False}, report=True)
    nbformat.validate(page)
    assert [cell.source for cell in page.cells] == [
        "(first)=\n# First",
        "(section-full)=\n## Full",
        "### Empty below",
        "Of the report.",
        "1",
    ]
    code = page.cells[-1]
    assert code.outputs[0].text == "output 4" and "hide-input" in code.metadata.tags
    assert page.metadata["absent"] == []
    shown = book.weave(source, executed(source), {"first.big": True}, report=True)
    assert any(cell.source == "Big." for cell in shown.cells)
    told = "\n".join(cell.source for cell in book.weave(source, executed(source)).cells)
    assert "Of the report" not in told and "Prose of the book." in told and "setting_up" in told


@pytest.mark.parametrize("output, seen", [
    (nbformat.v4.new_output("stream", text="a"), True),
    (nbformat.v4.new_output("stream", name="stderr", text="a"), False),
    (nbformat.v4.new_output("display_data", {"text/html": "a"}), True),
    (nbformat.v4.new_output("display_data", {"application/papermill.record/text/plain": "1"}),
     False),
])  # fmt: skip
def test_a_report_knows_outputs_that_no_page_shows(small, output, seen):
    source = book.read_source("01_first", small)
    run = copy.deepcopy(source)
    book.code_cells(run)[-1].outputs = [output]
    page = book.weave(source, run, {}, report=True)
    assert bool(book.code_cells(page)) == seen


def test_every_condition_of_a_cell_is_recorded_by_its_chapter_or_an_earlier_one():
    code = ""
    for name in book.notebook_names():
        notebook = book.read_source(name)
        code += "\n".join(cell.source for cell in book.code_cells(notebook))
        for cell in notebook.cells:
            for key in (
                tag.partition(":")[2]
                for tag in book.tags(cell)
                if tag.startswith(("if:", "unless:"))
            ):
                word = key.partition(".")[2]
                assert f"{word}=" in code or key.startswith(("screen.has_", "mechanisms.")), (
                    name,
                    key,
                )


def test_the_title_names_an_own_screen(small):
    book.stage(options(small))
    plain = book.sphinx_configuration(small / "_build/src")
    own = book.sphinx_configuration(small / "_build/src", "/x/my <b>plates.csv")
    assert (
        "html_title = 'Phenotypes from pixels'" in plain
        and "html_title = 'Phenotypes from pixels: my _b_plates'" in own
    )


# Staging -------------------------------------------------------------------


def test_one_setting_brings_the_buttons_that_launch_a_chapter(small):
    def buttons() -> dict:
        text = book.sphinx_configuration(small)
        line = re.search(r"^html_theme_options = (.*)$", text, re.MULTILINE)[1]
        return ast.literal_eval(line)["launch_buttons"]

    assert buttons() == {}  # with which the theme would fail
    edit(small / "_config.yml", 'url: ""', "url: https://github.com/owner/name")
    assert "mybinder.org" in buttons()["binderhub_url"] and buttons()["colab_url"]


def test_stage_mirrors_and_forgets(small):
    build = options(small)
    claim(build.out, "output folder")
    book.stage(build)
    staged = build.out / "src"
    assert (
        "Used in {doc}`/notebooks/01_first`, {doc}`/notebooks/02_second`."
        in (staged / "book/api/mcnn_book.workspace.md").read_text()
    )
    assert "No chapter imports this module" in (staged / "book/api/mcnn_core.errors.md").read_text()
    assert (
        "| {doc}`mcnn_core.machine.files` | Writing files"
        in (staged / "book/api/index.md").read_text()
    )
    before = (staged / "book/intro.md").stat().st_mtime_ns
    (small / "mcnn_core/errors.py").unlink()
    book.stage(build)
    assert (staged / "book/intro.md").stat().st_mtime_ns == before
    assert not (staged / "book/api/mcnn_core.errors.md").exists()


def test_every_module_has_a_page():
    pages = {path.name.removesuffix(".md") for path in book.api_pages()} - {"index"}
    assert pages == set(book.module_names()) and len(pages) > 40


SUMMARIES = {"24_summary", "20_gene_summary"}


def test_every_page_is_in_the_contents():
    pages, builds = (
        book.contents(book.Build()),
        [book.Build(screen=x) for x in ("x.csv", "kimorph")],
    )
    for path in (ROOT / "book").glob("*.md"):
        assert f"book/{path.stem}" in pages
    assert set(book.notebook_names()) == {*book.chapters(book.Build()), *SUMMARIES, "21_features"}
    for build in builds:
        reported = book.contents(build)
        assert len(set(reported)) == len(reported)
        assert all((ROOT / f"{page}.md").is_file() for page in reported)
        assert (
            reported[0] == f"notebooks/{book.chapters(build)[-1]}"
        )  # what runs last is read first


def test_a_report_runs_the_chapters_that_apply():
    numbers = {
        screen: [name[:2] for name in book.chapters(book.Build(screen=screen))]
        for screen in ("simulated", "bbbc021", "kimorph", "/x/plates.csv")
    }
    assert numbers["simulated"] == [*(f"{n:02d}" for n in range(1, 20)), "22", "23"]
    assert numbers["bbbc021"] == [*(f"{n:02d}" for n in range(1, 13)), "23", "24"]
    assert numbers["/x/plates.csv"] == numbers["bbbc021"]
    assert numbers["kimorph"] == ["13", "14", "20"]
    given = book.Build(
        screen="/x/plates.csv", profile="tiny", params="supervised=False"
    ).parameters()
    assert set(given) == set(book.chapters(book.Build(screen="/x/plates.csv")))
    assert given["08_mechanisms"]["supervised"] is False
    with pytest.raises(InputError, match="node_size=3: there is no such key"):
        book.Build(screen="/x/plates.csv", params="node_size=3").parameters()


def test_a_report_tells_of_pages_that_are_in_the_book_alone():
    found = book.elsewhere(book.Build(screen="kimorph"))
    assert found["chapter-mechanisms"] == "Mechanisms of action"
    assert "chapter-genes" not in found and "leaks" not in found
    assert {"recorded", "robustness", "chapter-choosing"} <= set(found)


@pytest.mark.parametrize(
    "text, remote",
    [
        ('<script src="https://cdn.example/x.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', True),
        ('<img src="http://example.org/x.png">', True),
        ('<a href="https://example.org">a link may lead away</a><img src="x.png">', False),
        ('<link rel="canonical" href="https://example.org/page.html">', False),
    ],
)
def test_pages_load_nothing_from_the_network(tmp_path, text, remote):
    (tmp_path / "page.html").write_text(text)
    assert bool(book.network_loads(tmp_path)) == remote


def test_style_sheets_load_nothing_from_the_network(tmp_path):
    (tmp_path / "x.css").write_text(
        "a { background: url('https://example.org/x.png') } b { background: url(data:,x) }"
    )
    assert book.network_loads(tmp_path) == ["x.css: 'https://example.org/x.png'"]


# End to end ----------------------------------------------------------------


def doit(root: Path, out: Path, **given: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OUT": str(out), "PROFILE": "tiny", "PYTHONPATH": str(root)} | given
    return subprocess.run(
        [sys.executable, "-m", "doit", "run"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_a_small_book_from_end_to_end(small, tmp_path):
    out = tmp_path / "out"
    first = doit(small, out)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "01_first: done" in first.stdout and "02_second: done" in first.stdout
    results = json.loads((out / "results.json").read_text())
    assert results["first.n"] == 1 and results["second.length"] == 2
    assert {"run.commit", "run.seed", "run.seconds.01_first", "run.version.torch"} <= set(results)
    page = (out / "html/notebooks/01_first.html").read_text()
    assert (
        "1.0" in page and "book/api/mcnn_book.workspace.html#mcnn_book.workspace.Workspace" in page
    )
    assert "THEBE_JS_URL" not in page
    assert "noise" not in (out / "html/notebooks/02_second.html").read_text()
    assert "url=book/intro.html" in (out / "html/index.html").read_text()

    assert "kept in kept.txt of OUT" in page
    told = [
        path
        for path in (out / "html").rglob("*")
        if path.is_file() and str(out).encode() in path.read_bytes()
    ]
    assert not told, told

    given = (out / "notebooks/01_first.ipynb").read_text()
    assert "It kept 1 and 1.0." in given and "{result}" not in given
    assert (
        "[First](../html/notebooks/01_first.html)"
        in (out / "notebooks/02_second.ipynb").read_text()
    )
    assert "It kept 1 and 1.0." in (out / "html/_sources/notebooks/01_first.ipynb").read_text()
    assert "mybinder" not in page  # no public address is set

    assert doit(small, out).stdout == ""  # nothing to do

    html = {path: path.read_bytes() for path in (out / "html").rglob("*") if path.is_file()}
    (out / "html/.nojekyll").touch()
    (out / "html/CNAME").write_text("www.example.org\n")
    edit(out / "results.json", '"first.n": 1', '"first.n": 7')
    edit(out / "src/notebooks/01_first.ipynb", "It kept", "It has not kept")
    edit(out / "src/book/intro.md", "One is", "One is not")
    (out / "html/searchindex.js").unlink()
    (out / "html/objects.inv").write_bytes(b"damaged")
    mended = doit(small, out)
    assert mended.returncode == 0 and "running" not in mended.stdout, mended.stdout + mended.stderr
    assert json.loads((out / "results.json").read_text()) == results
    assert {path: path.read_bytes() for path in html} == html
    assert (out / "html/CNAME").read_text() == "www.example.org\n" and (
        out / "html/.nojekyll"
    ).exists()
    assert doit(small, out).stdout == ""

    edit(small / "book/intro.md", "One is", "One is {result}`first.missing`, not")
    broken = doit(small, out)
    assert broken.returncode != 0 and "no number 'first.missing'" in broken.stderr
    assert doit(small, out).returncode != 0  # a warning does not pass at the second try
    edit(
        small / "book/intro.md",
        "{result}`first.missing`, not",
        "\n\n```{code-block} no-language\nx\n```\n\n",
    )
    broken = doit(small, out)  # a warning when pages are written, not read
    assert (
        broken.returncode != 0 and "Pygments lexer name 'no-language' is not known" in broken.stderr
    )
    edit(small / "book/intro.md", "```{code-block} no-language\nx\n```", "")

    edit(small / "notebooks/01_first.md", "space.record(", "# a remark\nspace.record(")
    again = doit(small, out)
    assert again.returncode == 0, again.stdout + again.stderr
    # What it left is the same.
    assert "01_first: done" in again.stdout and "02_second" not in again.stdout

    (out / "kept.txt").unlink()
    edit(small / "notebooks/02_second.md", "* epochs", "* epochs / 0")
    failed = doit(small, out)
    assert failed.returncode != 0
    assert "01_first: done" in failed.stdout
    assert "notebook 02_second failed" in failed.stdout + failed.stderr
    assert "ZeroDivisionError" in failed.stdout + failed.stderr
    assert (out / "exec/02_second.failed.ipynb").exists()
    assert doit(small, out).returncode != 0  # a failed run does not count
    (out / "log.txt").write_text("mine")
    assert discard(out) == [
        "html/.nojekyll",
        "html/CNAME",
        "log.txt",
    ]  # all else is known to be ours, and make clean removes it


def test_a_small_report_from_end_to_end(small, tmp_path):
    out, table = tmp_path / "out", tmp_path / "screen" / "my plates.csv"
    table.parent.mkdir()
    for name in book.imported_modules("import mcnn_core.readers.loaddata", ROOT):
        path = book.module_file(name, ROOT).relative_to(ROOT)
        (small / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, small / path)
    table.write_text("a\n")
    edit(small / "notebooks/01_first.md", "It kept", "See {ref}`far`. It kept")
    for name in ("01_first", "02_second"):
        with open(small / f"notebooks/{name}.md", "a") as text:
            text.write(
                '\n+++ {"tags": ["report"]}\n\nThe report of {result}`first.n` and '
                "{ref}`a part <second-part>`, {ref}`far`, {py:mod}`mcnn_core.machine.files`.\n"
            )
    edit(small / "book/intro.md", "# Small", "(far)=\n# Far away")
    edit(small / "notebooks/02_second.md", "# Second", "# Second\n\n(second-part)=\n## A part")
    made = doit(small, out, SCREEN=str(table))
    assert made.returncode == 0, made.stdout + made.stderr
    first = (out / "html/notebooks/01_first.html").read_text()
    assert "url=notebooks/02_second.html" in (out / "html/index.html").read_text()
    assert "The report of" in first and "“Far away” in the book" in first
    assert "It kept" not in first and "kept in kept.txt" in first and "my plates" in first
    assert not (out / "html/book").exists()
    assert doit(small, out, SCREEN=str(table)).stdout == ""
    edit(small / "notebooks/02_second.md", "(second-part)=", "(third-part)=")
    wrong = doit(small, out, SCREEN=str(table))
    assert wrong.returncode != 0 and "second-part" in wrong.stderr


def test_bad_options_end_the_build_in_one_line(small, tmp_path):
    ended = doit(small, tmp_path / "out", PARAMS="lerning_rate=1")
    assert ended.returncode != 0
    assert ended.stderr.splitlines() == [
        "error: PARAMS takes key=value with one of the keys epochs",
        "  - lerning_rate=1: there is no such key",
    ]
    assert not (tmp_path / "out").exists()


# The commands --------------------------------------------------------------


def test_an_old_python_is_refused_in_one_line(tmp_path):
    for name in ("Makefile", "requirements.txt", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    ended = subprocess.run(
        ["make", "book", "PYTHON=false"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode != 0 and "error: Python 3.11 or newer is needed" in ended.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    "reason, passes", [("shared data absent: /x", True), ("no GPU", True), ("not today", False)]
)
def test_ci_fails_on_an_unexpected_skip(tmp_path, reason, passes):
    fake = tmp_path / "make"
    fake.write_text(
        f"#!/bin/sh\necho 'SKIPPED [1] tests/test_x.py:3: {reason}'\n"
        "echo '== 3 passed, 1 skipped =='\n"
    )
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run([ROOT / ".ci/run"], env=environment, capture_output=True, text=True)
    assert (ended.returncode == 0) == passes


def test_a_notebook_follows_from_the_records_it_shows(tmp_path):
    folder = tmp_path / "book" / "recorded"
    folder.mkdir(parents=True)
    for name in ("a.json", "b.json"):
        (folder / name).write_text("{}")

    def names(cells, modules):
        return [path.name for path in book.recorded_files(tmp_path, cells, modules)]

    assert names([["read('b.json')", False]], {"files"}) == ["b.json"]
    assert names([["recorded('x')", False]], {"mcnn_book.study"}) == ["a.json", "b.json"]
    assert names([["1", False]], set()) == []
