"""One contestant in a process of its own.

It prepares, then runs once for every line on its standard input. Answers are lines of JSON: the
facts when ready, then what each run took, and at the end of the input the memory: ``peak_bytes``,
the most that the process or one of its own held, and ``anonymous_bytes``, the part of it, seen
every 20 ms, that is not pages of files, which the system may drop at any time. The peak is the
kernel's VmHWM: ru_maxrss of a process starts at that of the process that started it.
"""

import json
import resource
import sys
import threading
import time
from pathlib import Path

from benchmarks import cases, large


class Watch(threading.Thread):
    """Keep the largest anonymous memory of this process (`most`)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        """Look again and again."""
        while True:
            self.most = max(self.most, memory("RssAnon"))
            time.sleep(0.02)


def memory(kind: str) -> int:
    """Return a size that the kernel keeps of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def main(folder: str, name: str, who: str, quick: str) -> None:
    """Serve one contestant of one case."""
    known = [
        *cases.machine_cases(bool(quick)),
        *cases.all_cases(bool(quick)),
        *cases.flat_cases(bool(quick)),
        *large.cases(bool(quick)),
    ]
    case = next(case for case in known if case.name == name)
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    if who == "prepare":
        case.prepare(Path(folder), case)
        return
    watch = Watch()
    watch.start()
    run, facts = case.contestants[who](Path(folder), case)
    print(json.dumps(facts), file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        found = run()
        took = time.perf_counter() - start
        answer = (
            found
            if isinstance(found, dict)
            else {"seconds": found if isinstance(found, float) else took}
        )
        print(json.dumps({"seconds": took} | answer), file=answers, flush=True)
        del found
    peak = max(memory("VmHWM"), 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(
        json.dumps({"peak_bytes": peak, "anonymous_bytes": max(watch.most, memory("RssAnon"))}),
        file=answers,
        flush=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
