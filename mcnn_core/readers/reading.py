"""What a user says of how a screen is to be read."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mcnn_core.errors import InputError

#: What each option may say; of planes also a number.
CHOICES = {
    "planes": ("", "max", "middle"),
    "incomplete": ("refuse", "leave-out"),
    "sizes": ("refuse", "crop"),
}


@dataclass(frozen=True)
class Reading:
    """How a screen is to be read, where there is more than one way.

    Attributes
    ----------
    data : tuple of Path
        Folders in which images are sought, next to that of the table.
    platemap : Path, optional
        Table of what each well holds.
    channels : tuple of str
        Those that are read, in this order; all of them if empty.
    time : str
        The time point that is read, as the table writes it; "" refuses several.
    planes : str
        What becomes of the focal planes of a field: "max" takes the brightest value of each pixel,
        "middle" the plane in the middle, a number the plane of that number; "" refuses them.
    incomplete : {"refuse", "leave-out"}
        What becomes of a field one of whose images is missing or damaged.
    sizes : {"refuse", "crop"}
        What becomes of fields of several sizes.
    negative : tuple of str
        Contents of a screen in the imageHTS layout that are negative controls; the usual ones if
        empty.

    Raises
    ------
    InputError
        If an option says what is not known.
    """

    data: tuple[Path, ...] = ()
    platemap: Path | None = None
    channels: tuple[str, ...] = ()
    time: str = ""
    planes: str = ""
    incomplete: str = "refuse"
    sizes: str = "refuse"
    negative: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a word that is not known."""
        problems = [
            f"{key}={getattr(self, key)}: expected {' or '.join(filter(None, known))}"
            + " or a number" * (key == "planes")
            for key, known in CHOICES.items()
            if getattr(self, key) not in known
            and not (key == "planes" and re.fullmatch("[0-9]{1,9}", self.planes))
        ]
        if problems:
            raise InputError("a screen is not read in such a way", problems)

    @classmethod
    def from_text(
        cls,
        data: str | os.PathLike = "",
        platemap: str = "",
        channels: str = "",
        negative: str = "",
        **options: str,
    ) -> "Reading":
        """Make it from what commands are given: folders joined by colons, names by commas."""
        return cls(
            tuple(map(Path, folders(os.fspath(data)))),
            Path(platemap).expanduser() if platemap else None,
            tuple(name.strip() for name in channels.split(",") if name.strip()),
            negative=tuple(name.strip() for name in negative.split(",") if name.strip()),
            **options,
        )

    def as_text(self) -> dict[str, str]:
        """Return what `from_text` makes it from."""
        return {key: getattr(self, key) for key in (*CHOICES, "time")} | {
            "data": os.pathsep.join(map(str, self.data)),
            "platemap": str(self.platemap or ""),
            "channels": ",".join(self.channels),
            "negative": ",".join(self.negative),
        }


def folders(data: str) -> list[str]:
    """Return the folders that ``DATA`` names; a folder's own name may hold a colon."""
    parts = [data] if os.path.isdir(data) else data.split(os.pathsep)
    return [os.path.abspath(os.path.expanduser(part)) for part in parts if part]


#: Everything as it stands.
PLAIN = Reading()
