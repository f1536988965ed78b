"""The errors a user can meet.

They are: bad input, a stage that has not been run, and a training whose other processes have ended.
"""

from collections.abc import Iterable, Sequence

#: Problems that a message prints, and problems of one kind that are kept one by one.
SHOWN, KEPT = 20, 10_000


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
