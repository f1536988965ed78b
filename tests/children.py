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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: What the process is forked from has imported: the long stages, and what they need.
PRELOAD = ["tests.faults.stages"]


def _run(code: str, arguments: list[str], out: Connection, error: Connection) -> None:
    """Be that process."""
    os.dup2(out.fileno(), 1)  # pipes, which no limit on the size of files cuts off
    os.dup2(error.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.resetwarnings()
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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    given = (code, [str(one) for one in arguments], *(write for _, write in pipes))
    process = context.Process(target=_run, args=given)
    process.start()
    for _, write in pipes:
        write.close()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the process hangs")
    texts = []
    for read, _ in pipes:
        with open(read.fileno(), "rb", closefd=False) as pipe:
            texts.append(pipe.read().decode())
        read.close()
    return subprocess.CompletedProcess(given[:2], process.exitcode, *texts)
