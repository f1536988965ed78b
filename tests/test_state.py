"""The output folder as a build may find it: odd names, damage, and what others have put there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import NOTEBOOK, small_repository

from mcnn_core.errors import InputError
from mcnn_core.machine.files import claim
from tools import book

CODE = 'from mcnn_book.workspace import Workspace\n\nWorkspace(out, "{name}").record(n=1)'


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    notebooks = [
        NOTEBOOK.format(title=name, parameters="", prose="Text.", code=CODE.format(name=name))
        for name in ("01_first", "02_second")
    ]
    return small_repository(
        tmp_path_factory.mktemp("small") / "repository", *notebooks, "# Small\n", "default: {}\n"
    )


def doit(root: Path, out: Path, *tasks: str, **given: str) -> subprocess.CompletedProcess:
    environment = (
        os.environ | {"OUT": str(out), "PROFILE": "default", "PYTHONPATH": str(root)} | given
    )
    return subprocess.run(
        [sys.executable, "-m", "doit", "run", *tasks],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def built(root, tmp_path_factory) -> Path:
    """Build a book in a folder whose name holds what others fill in.

    Built where the path of temporary files is too long for a socket.
    """
    out, far = root.parent / "a{b}c %s $HOME {", tmp_path_factory.mktemp("far") / ("x" * 100)
    far.mkdir()
    ended = doit(root, out, TMPDIR=str(far))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not list(far.glob("*/kernel*"))
    return out


def texts(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def test_an_odd_name_and_a_long_path_of_temporary_files_are_no_obstacle(root, built):
    assert "url=book/intro.html" in (built / "html/index.html").read_text()
    assert doit(root, built).stdout == ""  # nothing to do


def test_damaged_pages_are_written_again(root, built):
    source = built / "src"
    before = texts(source)
    for name in ("conf.py", "book/intro.md", "book/_ext/results.py", "notebooks/01_first.ipynb"):
        os.truncate(source / name, 3)
    (source / "book/api/index.md").unlink()
    ended = doit(root, built)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stdout + ended.stderr
    assert texts(source) == before
    shutil.rmtree(source)
    assert doit(root, built, "stage", "weave").returncode == 0
    assert texts(source) == before


def test_what_others_have_put_beside_the_pages_stays_and_is_no_page(root, built):
    mine = {
        "book/notes [1].md": b"# Mine\n",
        "notebooks/09_mine.ipynb": b"{",
        "notebooks/sub/mine.md": b"# Mine\n",
        "mine.md": b"# Mine\n",
        "book/_ext/mine.py": b"1/0",
    }
    for name, content in mine.items():
        (built / "src" / name).parent.mkdir(exist_ok=True)
        (built / "src" / name).write_bytes(content)
    ended = doit(root, built, "-a", "stage", "render")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert mine.items() <= texts(built / "src").items()
    assert not [
        path
        for path in (built / "html").rglob("*.html")
        if "mine" in path.name or "notes" in path.name
    ]


@pytest.mark.parametrize(
    "name, folder",
    [
        ("src", False),
        ("src/book", False),
        ("src/notebooks", False),
        ("src/conf.py", True),
        ("src/book/intro.md", True),
        (".doit.json", True),
    ],
)
def test_what_is_in_the_way_is_named_and_left_alone(root, tmp_path, name, folder):
    out = tmp_path / "out"
    claim(out, "output folder")
    (out / "src").mkdir(exist_ok=True)
    if name == "src":
        (out / "src").rmdir()
    if folder:
        (out / name / "inside").mkdir(parents=True)
    else:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    build = book.Build(out=out, root=root)
    with pytest.raises(
        InputError, match=f"{out / name} is (a|no) .*in the way of what the build writes: move it"
    ):
        book.drop_damaged_state(build)
        book.stage(build)
        book._write_if_changed(out / "src/notebooks/01_first.ipynb", b"")
    assert (out / name / "inside").is_dir() if folder else (out / name).read_text() == "mine"


@pytest.mark.parametrize("content", [
    "", "{", "[]", "7", "null", '"stage"', "[" * 5_000, '{"stage": 5}', '{"stage": null}',
    '{"stage": {"_values_:": 3}}', '{"render": {"deps:": 3}}', '{"render": {"deps:": [[1]]}}',
    '{"render": {"/x": [1]}}', '{"render": {"/x": [1.0, "2", "3"]}}',
    '{"render": {"/x": {"a": 1}}}',
])  # fmt: skip
def test_a_state_of_another_shape_is_written_anew(tmp_path, capsys, content):
    state = tmp_path / ".doit.json"
    state.write_text(content)
    book.drop_damaged_state(book.Build(out=tmp_path))
    assert (
        capsys.readouterr().out == f"{state} was not whole and is written anew\n"
        and not state.exists()
    )


def test_the_state_that_doit_leaves_is_kept_and_any_other_is_no_traceback(root, built, capsys):
    state, whole = built / ".doit.json", json.loads((built / ".doit.json").read_text())
    book.drop_damaged_state(book.Build(out=built))
    assert capsys.readouterr().out == "" and state.exists()
    for damaged in ([whole], whole | {"stage": {name: [1] for name in whole["stage"]}}):
        state.write_text(json.dumps(damaged))
        ended = doit(root, built, "stage", "weave", "merge")
        assert (ended.returncode, ended.stdout, ended.stderr) == (
            0,
            f"{state} was not whole and is written anew\n",
            "",
        )
