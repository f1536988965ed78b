"""Commands that are stopped: they end, with all that they started, and the same command resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers import NOTEBOOK, small_repository

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120  #: seconds, for a machine that does much else; a run that hangs would hang for ever
SAID = "stopped; the same command resumes"
#: Says that it has been met here, and waits there until it is let go.
MEET = """\
import os as _os, pathlib as _pathlib, time as _time
_met = _os.environ.get("MET_{place}")
if _met:
    _pathlib.Path(_met).touch()
while _met:
    try:
        _time.sleep(0.02)
    except {heeds}:
        pass
"""
#: A kernel that takes as long to end as on a machine that does much else.
BUSY = """\
    async def end_late(self, *given, **options):
        import asyncio

        await AsyncKernelManager.shutdown_kernel(self, *given, **options)
        await asyncio.sleep(float(os.environ.get("LATE", 0)))

    OwnKernelManager.shutdown_kernel = end_late
"""
FIRST = """\
from mcnn_book.workspace import Workspace

Workspace(out, "01_first").record(n=1)"""
MET = "\n".join(
    " " * 8 + line for line in MEET.format(place="notebook", heeds="KeyboardInterrupt").splitlines()
)
#: With a child that heeds nothing but kill -9, and deaf itself.
SECOND = f"""\
import subprocess, sys
from mcnn_book.workspace import Workspace

deaf = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print(1, flush=True); time.sleep(1_000)"
)
if "MET_notebook" in __import__("os").environ:
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
{MET}
Workspace(out, "02_second").record(n=2)"""


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Write a repository whose build can be met at three places.

    While it imports, in its second notebook, and while pages are rendered.
    """
    first, second = (
        NOTEBOOK.format(title=title, parameters="", prose="Text.", code=code)
        for title, code in (("First", FIRST), ("Second", SECOND))
    )
    root = small_repository(
        tmp_path_factory.mktemp("small") / "repository",
        first,
        second,
        "# Small\n",
        "tiny: {}\ndefault: {}\n",
    )
    for place, path in (
        ("start", root / "tools/book.py"),
        ("pages", root / "book/_ext/results.py"),
    ):
        docstring, _, rest = path.read_text().partition('"""\n\n')
        path.write_text(f'{docstring}"""\n\n{MEET.format(place=place, heeds="()")}\n{rest}')
    path, mark = root / "tools/book.py", "    return OwnKernelManager\n"
    before, _, after = path.read_text().partition(mark)
    path.write_text(before + BUSY + mark + after)
    return root


def begin(*command: str, cwd: Path, **environment: str) -> subprocess.Popen:
    """Start a command as make does, in a process group of its own.

    There Ctrl-C is not ignored as it may be around the tests.
    """
    return subprocess.Popen(
        ["env", "--block-signal=INT", sys.executable, "-m", "tools.run", *command],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        preexec_fn=lambda: [
            signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)
        ],
    )


def until(reached, process: subprocess.Popen) -> None:
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes that have `mark` in their environment.

    They are what a command has started, and what that has.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("MARK") == mark:
                found.append(process)
        except psutil.Error:  # gone, or somebody else's
            pass
    return found


def stopped(process: subprocess.Popen, mark: str, *signals: int) -> str:
    """Send signals as a terminal does, to the whole group, and return what was printed.

    The command must end and leave no process.
    """
    for number in signals:
        os.killpg(process.pid, number)
    try:
        said = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == 130, said
        assert (
            said.splitlines()[-1] == SAID
            and "Traceback" not in said
            and "KeyboardInterrupt" not in said
        ), said
        assert not marked(mark)
    finally:
        for left in marked(mark):
            left.kill()
    return said


@pytest.mark.parametrize(
    "place, signals",
    [
        ("start", [signal.SIGINT]),
        ("start", [signal.SIGHUP]),
        ("notebook", [signal.SIGINT, signal.SIGINT]),
        ("notebook", [signal.SIGTERM]),
        ("pages", [signal.SIGINT]),
    ],
)
def test_a_build_stops_wherever_it_is(small, tmp_path, place, signals):
    met, given = (
        tmp_path / "met",
        {
            "OUT": str(tmp_path / "out"),
            "PROFILE": "tiny",
            "PYTHONPATH": str(small),
            "MARK": str(tmp_path),
        },
    )
    process = begin("doit", "run", cwd=small, **given, **{f"MET_{place}": str(met)})
    until(met.exists, process)
    assert marked(str(tmp_path))
    said = stopped(process, str(tmp_path), *signals)
    assert ("01_first: done" in said) == (place != "start") and len(said.splitlines()) < 10
    if place == "notebook":  # what was done is not done again
        resumed = begin("doit", "run", "merge", cwd=small, **given)
        said = resumed.communicate(timeout=600)[0]
        assert (
            resumed.returncode == 0
            and "01_first: running" not in said
            and "02_second: done" in said
        ), said


def test_a_kernel_that_is_slow_to_end_is_no_news(small, tmp_path):
    given = {"OUT": str(tmp_path / "out"), "PROFILE": "tiny", "PYTHONPATH": str(small)}
    given |= {"MARK": str(tmp_path), "MET_notebook": str(tmp_path / "met"), "LATE": "3"}
    process = begin("doit", "run", cwd=small, **given)
    until((tmp_path / "met").exists, process)
    assert "died" not in stopped(process, str(tmp_path), signal.SIGINT)


def test_a_simulation_stops_with_its_processes(tmp_path):
    process = begin(
        "mcnn_book",
        "simulate",
        "--out",
        str(tmp_path / "screen"),
        "--seed",
        "0",
        cwd=ROOT,
        MARK=str(tmp_path),
        PYTHONPATH=str(ROOT),
    )
    until(lambda: [*tmp_path.glob(".screen.*/Week*/*/*.tif")], process)
    assert len(marked(str(tmp_path))) > 2
    said = stopped(process, str(tmp_path), signal.SIGINT)
    assert not (tmp_path / "screen").exists()
    assert [line for line in said.splitlines() if line and not line.startswith("simulate: ")] == [
        SAID
    ], said


def test_a_command_that_ignores_all_interrupts_ends(tmp_path):
    (tmp_path / "stubborn.py").write_text(MEET.format(place="here", heeds="KeyboardInterrupt"))
    process = begin(
        "stubborn",
        cwd=ROOT,
        MARK=str(tmp_path),
        MET_here=str(tmp_path / "met"),
        PYTHONPATH=str(tmp_path),
    )
    until((tmp_path / "met").exists, process)
    assert stopped(process, str(tmp_path), signal.SIGINT) == f"{SAID}\n"


def test_ctrl_c_at_once_is_no_traceback(tmp_path):
    process = begin("doit", "help", cwd=ROOT)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[0]
    # The latter where even env had not begun.
    assert (process.returncode, said) in (
        (130, f"{SAID}\n"),
        (-signal.SIGINT, ""),
    )


def test_make_runs_its_commands_so():
    said = subprocess.run(
        ["make", "-n", "book", "check", "data", "study", "bench", "simulate", "notebooks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    commands = [
        line
        for line in said.stdout.splitlines()
        if " -m " in line and "pip" not in line and "venv .venv" not in line
    ]
    assert len(commands) == 7 and all(
        line.startswith("env --block-signal=INT .venv/bin/python -m tools.run ")
        for line in commands
    ), said.stdout


def test_what_is_ignored_stays_ignored_and_the_status_is_the_modules(tmp_path):
    (tmp_path / "quiet.py").write_text(
        "import os, signal, sys\nos.kill(os.getpid(), signal.SIGHUP)\n"
        "print(sys.argv[1])\nsys.exit(7)\n"
    )
    command = [sys.executable, "-m", "tools.run", "quiet", "word"]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "word\n", "")
