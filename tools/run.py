"""Run a module as ``python -m MODULE ...`` would, and stop it well.

    python -m tools.run MODULE ...

Ctrl-C, SIGTERM and SIGHUP (a closed terminal) raise KeyboardInterrupt in the main thread, once:
what is being written is dropped, and the temporary folders go. What has not ended `PATIENCE`
seconds later is ended as by ``kill -9``, which loses nothing either. No process that the module
started is left. Only what an end needs is imported here, so that one in the first second, while
the module imports its own, is no different.
"""

import os
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress

PATIENCE = 5.0  #: seconds
STOPPED = 130  #: exit status, as a shell gives it for Ctrl-C
_STOPPING = threading.Event()


def main() -> None:
    """Run the module that the command line names."""
    # A terminal sends these to every process of the command. Blocked, as processes started later
    # inherit it, they reach this one alone: the others would print tracebacks. Where a command runs
    # with nohup or in the background they stay ignored.
    heard = {
        number
        for number in (signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    }
    # Also of the first two: multiprocessing lets SIGINT through again.
    for number in (*heard, signal.SIGTERM):
        signal.signal(number, _interrupt)
    signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    for watch in (_listen, _watch):
        threading.Thread(target=watch, args=(heard,), daemon=True).start()
    del sys.argv[0]
    announced = False
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except BaseException as error:
        if not _STOPPING.is_set():
            raise
        announced = isinstance(error, SystemExit) and error.code == STOPPED
    if _STOPPING.is_set():
        _end(announced)


def _listen(heard: set[signal.Signals]) -> None:
    """Turn the signals of the terminal into that which the main thread heeds.

    It heeds it also in the middle of a system call.
    """
    if heard:
        signal.sigwait(heard)
        main_thread = threading.main_thread().ident
        assert main_thread is not None  # it has started
        signal.pthread_kill(main_thread, signal.SIGTERM)


def _interrupt(*_: object) -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # a second one changes nothing
        signal.signal(number, signal.SIG_IGN)
    _STOPPING.set()
    if "logging" in sys.modules:
        sys.modules["logging"].disable()  # what libraries say of an end that is asked for
    raise KeyboardInterrupt


def _watch(_: object) -> None:
    """End a process that does not end by itself.

    An interrupt may be lost in a library, or wait for one that hangs.
    """
    _STOPPING.wait()
    time.sleep(PATIENCE)
    _end()


def _end(announced: bool = False) -> None:
    """End this process and all that it started.

    What Python does at its end, which may wait, is left out.
    """
    while children := _children(os.getpid()):
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        # Not a child of its own: its parent, which comes first, is gone as well.
        with suppress(ChildProcessError):
            for child in children:
                os.waitpid(child, 0)
    with suppress(OSError):  # a closed terminal
        os.write(2, b"" if announced else b"stopped; the same command resumes\n")
    os._exit(STOPPED)


def _children(process: int) -> list[int]:
    """Return the processes that a process has started, and that these have, and so on.

    There are none where there is no ``/proc``.
    """
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with (
            suppress(OSError, ValueError),  # gone already, or no process
            open(f"/proc/{int(name)}/stat", encoding="ascii", errors="replace") as stat,
        ):
            parents.setdefault(int(stat.read().rpartition(")")[2].split()[1]), []).append(int(name))
    found = parents.get(process, [])
    for child in found:  # which grows meanwhile
        found += parents.get(child, [])
    return found


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # just before the module began, or just after it ended
        _end()
