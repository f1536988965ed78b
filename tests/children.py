"""Code that tests run in a process of its own, where it may be killed or short of room.

The process is forked from one that has imported PyTorch and our packages, so that it begins at once
and not after seconds.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
import warnings
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: What the process is forked from has imported: long stages, benchmarks, and what they need.
PRELOAD = ["tests.faults.stages", "benchmarks.cases", "benchmarks.large"]


def _run(code: str, arguments: list[str], ends: dict[int, Connection]) -> None:
    """Be that process; `ends` are pipes, which no limit on the size of files cuts off."""
    for number, end in ends.items():
        os.dup2(end.fileno(), number)
    sys.stdin = os.fdopen(0, closefd=False) if 0 in ends else sys.stdin
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.resetwarnings()
    multiprocessing.set_start_method(None, force=True)  # the system's, as in a fresh process
    sys.argv, status = ["-c", *arguments], 0
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def child(code: str, *arguments: object, seconds: float = 600) -> subprocess.CompletedProcess:
    """Run `code` as ``python -c`` does, in the root of the repository; return what became of it."""
    given = code, [str(one) for one in arguments]
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(2)]
    process = _started(*given, {number: write for number, (_, write) in enumerate(pipes, 1)})
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the process hangs")
    texts = []
    for read, _ in pipes:
        with open(read.fileno(), "rb", closefd=False) as pipe:
            texts.append(pipe.read().decode())
        read.close()
    return subprocess.CompletedProcess(given, process.exitcode, *texts)


def _started(code: str, arguments: list[str], ends: dict[int, Connection]) -> BaseProcess:
    """Start a process with its ends of pipes, which are closed here."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_run, args=(code, arguments, ends))
    process.start()
    for end in ends.values():
        end.close()
    return process


class Module:
    """``python -m MODULE ...`` with its input and output in pipes, as `subprocess.Popen` has it."""

    def __init__(self, command: list[str], **_: object):
        (theirs_in, write), (read, theirs_out) = (multiprocessing.Pipe(False) for _ in range(2))
        code = "import runpy, sys; runpy.run_module(sys.argv.pop(1), None, '__main__', True)"
        self._process = _started(code, command[2:], {0: theirs_in, 1: theirs_out})
        self.stdin, self.stdout = (
            os.fdopen(os.dup(end.fileno()), mode) for end, mode in ((write, "w"), (read, "r"))
        )
        for end in (write, read):
            end.close()
        self.poll, self.kill = lambda: self._process.exitcode, self._process.kill

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self.returncode

    def communicate(self) -> None:
        self.stdin.close()
        self.wait()
