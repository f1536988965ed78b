"""What every command needs: options that are whole numbers, and one message for an error."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mcnn_core.errors import InputError, MissingStageError

#: A whole number as people write it in a command: digits alone, and such as 64 bits hold.
WHOLE = "[0-9]{1,18}"


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
    except (InputError, MissingStageError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; the same command resumes", file=sys.stderr)
        sys.exit(130)
