"""The errors a user can meet, and how commands tell them.

They are: bad input, a stage that has not been run, and a training whose other processes have ended.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

#: Problems that a message prints, and problems of one kind that are kept one by one.
SHOWN, KEPT = 20, 10_000


#: A whole number as people write it in a command: digits alone, and such as 64 bits hold.
WHOLE = "[0-9]{1,18}"


class Problem(str):
    """One line of an `InputError` that knows its place and kind, for ``mcnn_book.check.examine``.

    Parameters
    ----------
    text : str
    code : str
        Name of the kind of problem, one of ``mcnn_book.check.examine.codes``.
    file : str
    row : int, optional
        Line in the file, the header being line 1.
    column : str
    n : int
        How many problems the line stands for: beyond `KEPT` of one kind, one line counts all
        others.
    severity : {"error", "warning", "note"}
        Only an error stops the reading of a screen.
    """

    __slots__ = ("code", "column", "file", "n", "row", "severity")

    code: str
    column: str
    file: str
    n: int
    row: int | None
    severity: str

    def __new__(
        cls,
        text: str,
        code: str,
        file: str = "",
        row: int | None = None,
        column: str = "",
        n: int = 1,
        severity: str = "error",
    ) -> "Problem":
        """Make the line; its place travels with the text."""
        self = super().__new__(cls, text)
        self.code, self.file, self.row, self.column, self.n = code, file, row, column, n
        self.severity = severity
        return self


def count(problems: Iterable[str]) -> int:
    """Return how many problems these lines stand for."""
    return sum(getattr(problem, "n", 1) for problem in problems)


class InputError(ValueError):
    """Something the user gave is wrong; every bad row is named at once.

    Parameters
    ----------
    what : str
        The problem in one line, with what would be right.
    problems : sequence of str
        One line per bad file, row or column (a `Problem` where its place is known). All are kept in
        ``problems``; the message prints the first 20 and the number of the others.
    """

    def __init__(self, what: str, problems: Sequence[str] = ()):
        self.what = what
        self.problems = list(problems)
        shown = [f"  - {problem}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            shown.append(f"  ... and {count(self.problems[SHOWN:])} more")
        super().__init__("\n".join([what, *shown]))


class MissingStageError(RuntimeError):
    """The output of an earlier notebook is missing; the message names that notebook."""


class LostProcessError(RuntimeError):
    """Another of the processes that train one network together has ended."""


def whole(low: int = 0, high: int = 10**18 - 1) -> Callable[[str], int]:
    """Return a type for argparse: a whole number, in digits, from `low` to `high`."""

    def read(text: str) -> int:
        if not re.fullmatch(WHOLE, text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"expected a whole number, {low:,} or more and at most {high:,}, got {text!r}"
            )
        return int(text)

    return read


@contextmanager
def reporting() -> Iterator[None]:
    """End a command by one message, not a traceback, where the user can mend what is wrong.

    That is so of these errors, the system's, and Ctrl-C.
    """
    try:
        yield
    except (InputError, MissingStageError, LostProcessError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; the same command resumes", file=sys.stderr)
        sys.exit(130)
