"""What a user says of how a screen is to be read."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mcnn_core.errors import WHOLE, InputError

#: What each option may say; of planes also a number.
CHOICES = {
    "planes": ("", "max", "middle"),
    "incomplete": ("refuse", "leave-out"),
    "sizes": ("refuse", "crop"),
}


@dataclass(frozen=True)
class Reading:
    """How a screen is to be read, where more than one way is right.

    Attributes
    ----------
    data : tuple of Path
        Folders in which images are sought, beside that of the table.
    platemap : Path, optional
        Table of what each well holds.
    channels : tuple of str
        Those that are read, in this order; all of them if empty.
    planes : str
        What becomes of the focal planes of a field: "max" takes the brightest value of each pixel,
        "middle" the plane in the middle, a number the plane of that number; "" refuses them.
    incomplete : {"refuse", "leave-out"}
        What becomes of a field one of whose images is missing or damaged.
    sizes : {"refuse", "crop"}
        What becomes of fields of several sizes.

    Raises
    ------
    InputError
        If an option says what is not known.
    """

    data: tuple[Path, ...] = ()
    platemap: Path | None = None
    channels: tuple[str, ...] = ()
    planes: str = ""
    incomplete: str = "refuse"
    sizes: str = "refuse"

    def __post_init__(self) -> None:
        """Refuse a word that is not known."""
        problems = [
            f"{key}={getattr(self, key)}: expected {' or '.join(filter(None, known))}"
            + " or a number" * (key == "planes")
            for key, known in CHOICES.items()
            if getattr(self, key) not in known
            and not (key == "planes" and re.fullmatch(WHOLE, self.planes))
        ]
        if problems:
            raise InputError("a screen is not read in such a way", problems)

    @classmethod
    def from_text(
        cls, data: str | os.PathLike = "", platemap: str = "", channels: str = "", **options: str
    ) -> "Reading":
        """Make it from what commands are given: folders joined by colons, channels by commas."""
        return cls(
            tuple(Path(part).expanduser() for part in os.fspath(data).split(os.pathsep) if part),
            Path(platemap).expanduser() if platemap else None,
            tuple(name.strip() for name in channels.split(",") if name.strip()),
            **options,
        )


#: Everything as it stands.
PLAIN = Reading()
