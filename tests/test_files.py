"""Writing whole files or none."""

import csv
import gzip
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
from hostile import NAMES

from mcnn_core.errors import InputError
from mcnn_core.machine.files import (
    MARKER,
    atomic,
    claim,
    discard,
    exclusive,
    foreign,
    is_ours,
    read_json,
    read_table,
    read_text,
    register,
    sha256,
    write_json,
    write_table,
)
from tests.children import child

ROOT = Path(__file__).resolve().parents[1]


def test_failure_leaves_the_old_file_and_no_temporary(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(RuntimeError), atomic(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_folder_replaces_folder_or_stays(tmp_path):
    for content in ("one", "two"):
        with atomic(tmp_path / "folder", "test") as temporary:
            temporary.mkdir()
            (temporary / "f").write_text(content)
    with pytest.raises(OSError), atomic(tmp_path / "folder", "test") as temporary:
        temporary.mkdir()
        raise OSError
    assert (tmp_path / "folder" / "f").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_round_trip(tmp_path, suffix):
    frame = pd.DataFrame({"Metadata_Well": ["B02", "B03"], "value": [0.1, 0.2]})
    write_table(tmp_path / f"t.{suffix}", frame)
    read = pd.read_csv if suffix == "csv" else pd.read_parquet
    pd.testing.assert_frame_equal(read(tmp_path / f"t.{suffix}"), frame)


def test_no_text_in_a_csv_is_a_formula_and_none_is_lost(tmp_path):
    names = [*NAMES, "x\ry", "\r", "", "'", "'=", "''=1", '"', "-5", "=1", "@a", "\t", "a,b", "+-"]
    frame = pd.DataFrame(
        [[name, -1.5, -2, True] for name in names], columns=["=a", "b", "-c", "'@d"]
    )
    write_table(tmp_path / "t.csv", frame)
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as handle:
        head, *rows = csv.reader(handle)
    assert len(rows) == len(names) and not [
        text
        for text in [*head, *(row[0] for row in rows)]
        if text[:1] in tuple("=+-@\t\r") and text not in ("", "-5")
    ]
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.csv"), frame, check_dtype=False)


def test_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f").startswith("ba7816bf8f01cfea")


def test_input_error_keeps_all_and_shows_twenty():
    error = InputError("bad", [f"row {i}" for i in range(25)])
    assert len(error.problems) == 25
    assert "row 19" in str(error) and "row 20" not in str(error) and "5 more" in str(error)


def test_leftovers_of_processes_that_are_gone_are_removed(tmp_path):
    """A process is killed while it writes.

    The next that writes the same path clears up, and touches nothing else.
    """
    code = (
        "import os, signal, sys; from mcnn_core.machine.files import atomic; writing = []\n"
        "for name in ('a.json', 'folder', 'b.json'):\n"
        "    kind = 'test' if name == 'folder' else ''\n"
        "    writing.append(atomic(os.path.join(sys.argv[1], name), kind))\n"
        "    temporary = writing[-1].__enter__()\n"
        "    temporary.mkdir() if name == 'folder' else temporary.write_text('half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert child(code, tmp_path).returncode == -signal.SIGKILL
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 3
    # Of another host: whether its process runs cannot be known.
    elsewhere = tmp_path / f".a.json.{'0' * 8}-{2**22 + 1}-0.part.json"
    elsewhere.touch()
    with atomic(tmp_path / "a.json") as here:
        here.touch()
        # At the same time, by a process that is alive: this one.
        write_json(tmp_path / "a.json", {"x": 1})
        assert here.exists()
    with atomic(tmp_path / "folder", "test") as temporary:
        temporary.mkdir()
    kept = next(name for name in left if name.startswith(".b.json."))
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "folder", kept, elsewhere.name}


FULL = """
import resource, sys
from pathlib import Path
import numpy as np, pandas as pd
from mcnn_core.machine import files
resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
home, many = Path(sys.argv[1]), np.arange(1000)
table = lambda path: files.write_table(path, pd.DataFrame({"a": many}))
for name, write in {"a.json": lambda path: files.write_json(path, many.tolist()),
                    "a.csv": table, "a.parquet": table,
                    "a.npy": lambda path: files.write_array(path, many)}.items():
    try:
        write(home / name)
    except OSError as error:
        print(name, error)
"""


def test_a_full_disk_is_an_error_that_names_the_file_and_keeps_the_old_one(tmp_path):
    """numpy.save into a file, for one, does not see that its last bytes found no room."""
    names = ["a.json", "a.csv", "a.parquet", "a.npy"]
    for name in names:
        (tmp_path / name).write_bytes(b"old")
    said = child(FULL, tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in said] == names and all(
        str(tmp_path / name) in line for name, line in zip(names, said, strict=True)
    )
    assert [(tmp_path / name).read_bytes() for name in names] == [b"old"] * 4 and len(
        list(tmp_path.iterdir())
    ) == 4


def test_a_folder_is_held_by_one_run_until_that_ends(tmp_path):
    with (
        exclusive(tmp_path / "new"),
        pytest.raises(
            InputError, match=rf"new is in use by another run \(process {os.getpid()} on"
        ),
        exclusive(tmp_path / "new"),
    ):
        pass
    with exclusive(tmp_path / "new"):
        pass


def test_what_is_no_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"a\.json is not whole"):
        read_json(tmp_path / "a.json")


def test_text_is_read_whatever_it_is_packed_in_and_refused_where_it_would_fill_the_memory(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa\r\nb")
    (tmp_path / "b").write_bytes(gzip.compress(b"a\r\nb"))
    assert read_text(tmp_path / "a") == read_text(tmp_path / "b") == "a\r\nb"
    (tmp_path / "c").write_bytes(gzip.compress(bytes(2**22)))
    assert len(read_text(tmp_path / "c")) == 2**22
    (tmp_path / "c").write_bytes(gzip.compress(bytes(2**22 + 1)))
    with pytest.raises(InputError, match="at most 4,194,304 bytes of text, got more once unpacked"):
        read_text(tmp_path / "c")


# ------------------------------------------------------------------------------ what is ours


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_folder(path: Path, **contents: str) -> None:
    with atomic(path, "test") as temporary:
        temporary.mkdir()
        for name, content in contents.items():
            (temporary / name).write_text(content)


def test_a_folder_of_somebody_elses_is_refused_in_one_line_and_stays(tmp_path):
    theirs = tmp_path / "theirs"
    (theirs / "deep").mkdir(parents=True)
    for name in ("notes.txt", "thesis.docx", "deep/photo.jpg", ".hidden"):
        (theirs / name).write_text(name)
    before = hashes(theirs)
    for act in (lambda: write_folder(theirs, a="1"), lambda: claim(theirs, "test")):
        with pytest.raises(
            InputError,
            match=r"theirs holds '\.hidden', 'deep', 'notes\.txt' and 1 more "
            r"and was not made by this program as a test",
        ):
            act()
    assert hashes(theirs) == before and sorted(path.name for path in tmp_path.iterdir()) == [
        "theirs"
    ]
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file is not a folder"):
        claim(tmp_path / "file", "test")
    claim(tmp_path / "empty", "test")
    claim(tmp_path / "empty", "test")
    with pytest.raises(InputError, match="empty is a test, not an other kind"):
        claim(tmp_path / "empty", "other kind")
    (tmp_path / "empty" / MARKER).write_text("[1]\n")
    with pytest.raises(InputError, match=r"empty/\.mcnn is damaged"):
        claim(tmp_path / "empty", "test")


def test_a_replaced_folder_keeps_what_others_have_put_into_it(tmp_path):
    folder = tmp_path / "folder"
    write_folder(folder, a="1", b="1")
    (folder / ".nojekyll").touch()
    (folder / "deep" / "empty").mkdir(parents=True)
    (folder / "deep" / "mine").write_text("mine")
    (folder / "link").symlink_to("nowhere")
    write_folder(folder, a="2", c="2")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == [
        ".mcnn",
        ".nojekyll",
        "a",
        "c",
        "deep",
        "deep/empty",
        "deep/mine",
        "link",
    ]
    assert (folder / "a").read_text() == "2" and os.readlink(folder / "link") == "nowhere"
    assert foreign(folder) == [".nojekyll", "deep/empty", "deep/mine", "link"] and os.listdir(
        tmp_path
    ) == ["folder"]
    (folder / "d").write_text("mine")
    with pytest.raises(
        InputError, match="folder/d was not written by this program and would be replaced"
    ):
        write_folder(folder, a="3", d="3")
    assert (
        (folder / "d").read_text() == "mine"
        and (folder / "a").read_text() == "2"
        and os.listdir(tmp_path) == ["folder"]
    )


@pytest.mark.parametrize("at", [1, 2])
def test_a_kill_while_a_folder_is_replaced_loses_nothing(tmp_path, at):
    """Killed before or after the new folder has come to its place."""
    folder = tmp_path / "folder"
    write_folder(folder, a="1")
    (folder / "mine").write_text("mine")
    code = (
        "import os, signal, sys; from pathlib import Path; from mcnn_core.machine import files\n"
        "replace, calls = os.replace, []\n"
        "def count(old, new):\n"
        "    replace(old, new); calls.append(new)\n"
        f"    if len(calls) == {at}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = count\n"
        "with files.atomic(sys.argv[1], 'test') as temporary:\n"
        "    temporary.mkdir(); (temporary / 'a').write_text('2')"
    )
    assert child(code, folder).returncode == -signal.SIGKILL
    assert folder.exists() == (at == 2)
    # What comes next clears up, even if it fails.
    with (
        pytest.raises(RuntimeError),
        atomic(folder, "test"),
    ):
        raise RuntimeError
    assert (
        (folder / "mine").read_text() == "mine"
        and (folder / "a").read_text() == str(at)
        and os.listdir(tmp_path) == ["folder"]
    )


def test_files_are_replaced_only_where_they_are_ours(tmp_path):
    claim(tmp_path / "out", "test")
    path = tmp_path / "out" / "deep" / "a.json"
    write_json(path, 1)
    path.write_text("damaged")
    write_json(path, 2)
    assert read_json(path) == 2 and is_ours(path) and foreign(tmp_path / "out") == []
    path.with_name("b.json").write_text("theirs")
    with pytest.raises(InputError, match=r"deep/b\.json was not written by this program"):
        write_json(path.with_name("b.json"), 3)
    assert path.with_name("b.json").read_text() == "theirs" and not is_ours(
        path.with_name("b.json")
    )
    write_json(tmp_path / "alone.json", 1)  # in no folder of ours: as any program would
    write_json(tmp_path / "alone.json", 2)
    assert read_json(tmp_path / "alone.json") == 2


def test_a_kill_before_a_file_is_in_its_place_leaves_it_ours(tmp_path):
    claim(tmp_path, "test")
    register(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("1")
    write_json(tmp_path / "a.json", 2)
    # Its last line cut short: what that named is not ours.
    (tmp_path / MARKER).write_bytes((tmp_path / MARKER).read_bytes()[:-3])
    with pytest.raises(InputError, match="was not written by this program"):
        write_json(tmp_path / "a.json", 3)


def test_what_is_discarded_is_ours_alone(tmp_path):
    out = tmp_path / "out"
    claim(out, "test")
    write_json(out / "a.json", 1)
    claim(out / "model", "inner")
    write_json(out / "model" / "b.json", 1)
    write_folder(out / "store", a="1")
    with exclusive(out):
        pass
    assert foreign(out) == []
    (out / "store" / "mine").write_text("mine")
    (out / "log.txt").write_text("mine")
    assert discard(out) == ["log.txt", "store/mine"]
    assert hashes(out).keys() == {MARKER, "log.txt", "store/mine", f"store/{MARKER}"}
    (out / "store" / "mine").unlink()
    (out / "log.txt").unlink()
    assert (
        discard(out) == []
        and not out.exists()
        and discard(tmp_path) == []
        and discard(tmp_path / "absent") == []
    )


def test_a_marker_cannot_name_what_lies_elsewhere(tmp_path):
    for name in ("theirs.txt", "elsewhere/a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    out = tmp_path / "out"
    claim(out, "test")
    (out / "link").symlink_to(tmp_path / "elsewhere")
    with open(out / MARKER, "a", encoding="utf-8") as marker:
        marker.write(
            f'"../theirs.txt"\n"{tmp_path}/theirs.txt"\n'
            '"a/../../theirs.txt"\n"link/a.json"\n7\n["x"]\n'
        )
    assert discard(out) == ["link"] and hashes(tmp_path).keys() == {
        "theirs.txt",
        "elsewhere/a.json",
        f"out/{MARKER}",
    }


def test_discard_leaves_empty_folders_of_others(tmp_path):
    claim(tmp_path / "out", "output folder")
    write_json(tmp_path / "out" / "results" / "a.json", 1)
    (tmp_path / "out" / "mine").mkdir()
    assert discard(tmp_path / "out") == ["mine"]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "out",
        f"out/{MARKER}",
        "out/mine",
    ]


def test_a_lock_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").symlink_to(tmp_path / "theirs")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".lock").write_text("theirs")
    for name, text in (("a", "lock is a link"), ("b", "lock was not written by this program")):
        with pytest.raises(InputError, match=text), exclusive(tmp_path / name):
            pass
        assert (tmp_path / name / ".lock").read_text() == "theirs"


def test_without_hard_links_files_of_others_are_copied(tmp_path, monkeypatch):
    write_folder(tmp_path / "folder", a="1")
    (tmp_path / "folder" / "mine").write_text("mine")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_folder(tmp_path / "folder", a="2")
    assert (tmp_path / "folder" / "mine").read_text() == "mine" and (
        tmp_path / "folder" / "a"
    ).read_text() == "2"


PIPES = """
import os, sys
from pathlib import Path
from mcnn_book.check import examine
from mcnn_core.machine import files
from mcnn_core.readers import bbbc021, imagehts, images, loaddata, ontology, phenodist
from mcnn_core.errors import InputError
home = Path(sys.argv[1])
pipe, kimorph = home / "pipe.csv", home / "kimorph"
(kimorph / "conf").mkdir(parents=True)
for path in (pipe, home / "BBBC021_v1_image.csv.gz", kimorph / "conf" / "imageconf.txt"):
    os.mkfifo(path)
os.symlink("/dev/zero", home / "zero.csv")
for read, *given in [(read, path) for path in (pipe, home / "zero.csv", home) for read in (
        files.read_text, loaddata.read_loaddata, imagehts.read_conf, imagehts.read_annotation,
        images.image_header, ontology._lines)] + [
        (phenodist.read_plate, pipe, pipe), (bbbc021.read_bbbc021, home),
        (imagehts.read_imagehts, kimorph)]:
    try:
        read(*given)
    except InputError as error:
        print(read.__name__,
              "regular file" in error.what or "Is a directory" in error.what or error.what)
report = examine.check(str(pipe))
print([(one.code, "is no regular file" in one) for one in report.problems
       if one.code != "check-not-made"])
"""


def test_a_pipe_or_a_device_is_refused_at_once(tmp_path):
    """Each reader once hung, filled the memory or ended by a traceback.

    Another process, so that one that hangs is ended.
    """
    run = child(PIPES, tmp_path, seconds=120)
    assert not run.stderr and run.returncode == 0
    *said, checked = run.stdout.splitlines()
    assert len(said) == 21 and checked == "[('table-unreadable', True)]"
    wrong = [
        line
        for line in said
        if not line.endswith(" True") and "BBBC021_v1_image.csv is missing" not in line
    ]
    assert not wrong, wrong
