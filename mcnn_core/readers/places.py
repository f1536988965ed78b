"""Where the images of a table lie: below its folder, or below the folders of ``DATA``.

A table names its images as the machine saw them that wrote it. Of a path from elsewhere (another
computer, Windows, a bucket) the longest ending is taken that exists below one of these folders. A
path never leads out of them by ``..``; a link does where the reader, or whoever wrote the table,
made it.
"""

import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd

from mcnn_core.columns import channels_in, folder_and_name, joint_codes
from mcnn_core.errors import InputError, Problem

#: What fetches a folder of a store, by the scheme of its address.
FETCH = {
    "s3": "aws s3 sync --no-sign-request {} DIR",
    "gs": "gcloud storage rsync --recursive {} DIR",
}


#: The beginning of an address; a single letter is a drive of Windows.
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")


#: A path that is no address: its drive or its server, where it has one, means nothing here.
WINDOWS = re.compile(r"[A-Za-z]:(?=[/\\])|(?=\\\\|//)")


#: Bytes of a file that stands for a link, at most.
LONGEST_LINK = 4096


class Named(NamedTuple):
    """A folder as a table names it: what comes before its path, and its parts."""

    scheme: str
    absolute: bool
    parts: tuple[str, ...]


class Place(NamedTuple):
    """A file as it was found: its path, and code and text of what is wrong with it, or ""."""

    path: str
    code: str = ""
    text: str = ""


def expanded(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table with ``FileName_`` and ``PathName_`` of every channel.

    ``URL_<channel>`` is split at its last slash; a path that is not named is the table's folder.
    """
    for channel in channels_in(rows, "URL"):
        if f"FileName_{channel}" not in rows:
            folder, name = folder_and_name(rows[f"URL_{channel}"])
            both = {f"FileName_{channel}": name, f"PathName_{channel}": folder}
            rows = rows.drop(columns=f"URL_{channel}").assign(**both)
    paths = [f"PathName_{channel}" for channel in channels_in(rows)]
    absent = {path: "" for path in paths if path not in rows}
    return rows.assign(**absent)


def split(whole: str) -> Named:
    """Return what a folder or address says: scheme, whether it begins at a root, and its parts."""
    scheme = SCHEME.match(whole)
    if scheme and (kind := scheme[1].lower()) != "file":
        address = urlsplit(whole)
        path = unquote(address.path) if "//" in whole else whole
        return Named(kind, True, tuple(part for part in (address.netloc, *path.split("/")) if part))
    if scheme:
        whole = urlsplit(whole).netloc.replace("localhost", "") + unquote(urlsplit(whole).path)
        whole = re.sub(r"^/(?=[A-Za-z]:/)", "", whole)
    foreign = WINDOWS.match(whole)
    plain = whole[foreign.end() :] if foreign else whole
    plain = posixpath.normpath(plain) if plain else ""
    inside = tuple(part for part in plain.split("/") if part not in ("", "."))
    return Named("" if not foreign else "windows", whole.startswith("/") or bool(foreign), inside)


@dataclass
class Finder:
    """Finds the files that one table names.

    Attributes
    ----------
    base : str
        Folder of the table.
    roots : list of str
        Folders below which images may lie; the first is that of the table, or stands for it.
    owners : set of int
        Whose links are followed wherever they lead.
    """

    base: str
    roots: list[str]
    owners: set[int]
    listings: dict[str, dict[str, bool]] = field(default_factory=dict)
    moved: dict[tuple[str, str], int] = field(default_factory=dict)
    folded: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    respelt: dict[str, str] = field(default_factory=dict)

    @cached_property
    def real(self) -> list[str]:
        """The roots without links."""
        return [os.path.realpath(root) for root in self.roots]

    @cached_property
    def where(self) -> str:
        """The roots in words."""
        return " or ".join(dict.fromkeys(self.real))

    def outside(self, path: str) -> Place:
        """Return what is said of a file outside the roots."""
        real = os.path.realpath(path)
        text = f"lies outside the data root {self.where}: name its folder with DATA="
        return Place(real, "file-outside", text)

    def listing(self, folder: str) -> dict[str, bool]:
        """Return the names in a folder, and whether each is a link; none where there is none."""
        if folder not in self.listings:
            try:
                with os.scandir(folder) as entries:
                    self.listings[folder] = {entry.name: entry.is_symlink() for entry in entries}
            except (OSError, ValueError):
                self.listings[folder] = {}
        return self.listings[folder]

    def entry(self, folder: str, name: str) -> str:
        """Return a name as its folder has it, in the same or, if only one is, in other capitals.

        "" if there is none. Letters with accents may be written in either form of Unicode.
        """
        if name in self.listing(folder):
            return name
        if folder not in self.folded:
            self.folded[folder] = defaultdict(list)
            for one in self.listing(folder):
                self.folded[folder][_plain(one)].append(one)
        alike = self.folded[folder].get(_plain(name), [])
        return alike[0] if len(alike) == 1 else ""

    def spelt(self, folder: str, root: str) -> str:
        """Return a folder below a root as the disk has it, itself if there is none.

        A link may be a file that holds its target, as Git writes one where links cannot be.
        """
        if folder == root or not _below(folder, root) or self.listing(folder):
            return folder
        above, part = os.path.split(folder)
        above = self.spelt(above, root)
        path = os.path.join(above, self.entry(above, part) or part)
        if not os.path.isfile(path) or os.path.getsize(path) > LONGEST_LINK:
            return path
        with open(path, "rb") as file:
            target = os.path.normpath(os.path.join(above, os.fsdecode(file.read()).strip()))
        ours = os.lstat(path).st_uid in self.owners
        return target if ours and "\0" not in target and os.path.isdir(target) else path

    def within(self, path: str) -> bool:
        """Whether a path lies in a root, without following it."""
        return any(_below(path, root) for root in (*self.roots, *self.real))

    def trusted(self, path: str, root: str) -> bool:
        """Whether a path below a root may be followed: it stays in one, or by links of ours."""
        if any(_below(os.path.realpath(path), real) for real in self.real):
            return True
        links, here = [], root
        for part in os.path.relpath(path, root).split("/"):
            here = os.path.join(here, part)
            links += [here] if os.path.islink(here) else []
        return all(os.lstat(link).st_uid in self.owners for link in links)

    def candidates(self, named: Named, names: Sequence[str]) -> list[tuple[str, str, int]]:
        """Return the folders that may be meant, with their root and how many parts are left out.

        They are those of the longest ending below which one of the files lies.
        """
        exact = os.path.normpath(os.path.join(self.base, "/" * named.absolute, *named.parts))
        within = [root for root in (*self.roots, *self.real) if _below(exact, root)]
        exact, plain = self.spelt(exact, within[0]) if within else exact, exact
        here = not named.scheme and any(self.entry(exact, name) for name in names)
        if here and within:
            if exact != plain:
                self.respelt.setdefault(plain, exact)
            root = within[0]
            others = [] if named.absolute else self.below(named.parts, names, self.roots[1:])
            return [(exact, root, 0), *((folder, root, 0) for folder, root in others)]
        parts = named.parts[next((n for n, p in enumerate(named.parts) if p != ".."), 0) :]
        roots = self.roots[1:] if here else self.roots
        for start in range(len(parts) + 1):
            if found := self.below(parts[start:], names, roots):
                return [(folder, root, start) for folder, root in found]
        return []

    def below(
        self, parts: tuple[str, ...], names: Sequence[str], roots: list[str]
    ) -> list[tuple[str, str]]:
        """Return the roots that have such a folder with one of the files, and the folders."""
        found: dict[str, tuple[str, str]] = {}
        for root in roots:
            plain = os.path.join(root, *parts)
            known = not parts or self.entry(root, parts[0])
            folder = self.spelt(plain, root) if known else plain
            if known and any(self.entry(folder, name) for name in names):
                if folder != plain:
                    self.respelt.setdefault(plain, folder)
                found.setdefault(os.path.realpath(folder), (folder, root))
        return list(found.values())

    def find(self, whole: str, names: Sequence[str]) -> list[Place]:
        """Return where the files `names` of the folder that a table calls `whole` lie."""
        named = split(whole)
        found = self.candidates(named, [name for name in names if name])
        if not found:
            return self.lost(named, whole, names)
        if found[0][2] or named.scheme:
            kept = "/".join(named.parts[found[0][2] :])
            start = unquote(whole) if SCHEME.match(whole) else whole
            key = (start.rstrip("/").removesuffix(kept), found[0][1])
            self.moved[key] = self.moved.get(key, 0) + len(names)
        real = {folder: os.path.realpath(folder) for folder, _, _ in found}
        follow = {folder: self.trusted(folder, root) for folder, root, _ in found}
        places = []
        for name in names:
            here = [folder for folder, _, _ in found if self.entry(folder, name)]
            written = [self.entry(folder, name) for folder in here]
            paths = [
                os.path.join(real[folder], one) for folder, one in zip(here, written, strict=True)
            ]
            if written and written[0] != name:
                self.respelt.setdefault(os.path.join(here[0], name), paths[0])
            if not name:
                places.append(Place(self.real[0]))
            elif not here:
                places.append(self.plain(os.path.join(real[found[0][0]], name), found[0][0], name))
            elif len({*paths}) > 1:
                places.append(Place(paths[0], "file-ambiguous", f"may be {' or '.join(paths)}"))
            elif not follow[here[0]]:
                places.append(self.outside(paths[0]))
            elif self.listing(here[0])[written[0]]:
                followed = self.trusted(paths[0], real[here[0]])
                target = os.path.realpath(paths[0])
                places.append(Place(target) if followed else self.outside(target))
            else:
                places.append(Place(paths[0]))
        return places

    def plain(self, path: str, folder: str, name: str) -> Place:
        """Return the place of a file that does not exist in a folder that may be read."""
        if name not in (".", ".."):
            return Place(path)
        real = os.path.realpath(os.path.join(folder, name))
        return Place(real) if self.within(real) else self.outside(real)

    def lost(self, named: Named, whole: str, names: Sequence[str]) -> list[Place]:
        """Return what is said of the files of a folder that was found nowhere."""
        if named.scheme not in ("", "windows"):
            return [Place(self.real[0], "file-remote", whole) for _ in names]
        exact = os.path.normpath(os.path.join(self.base, "/" * named.absolute, *named.parts))
        real = os.path.realpath(exact)
        places = []
        for name in names:
            path = os.path.join(real, name)
            if not name:
                places.append(Place(self.real[0]))
            elif not named.scheme and self.within(exact):
                places.append(self.plain(path, exact, name))
            elif not named.scheme and (not named.absolute or os.path.lexists(path)):
                places.append(self.outside(path))
            else:
                path = os.path.join(self.real[0], whole.lstrip("/"), name)
                text = f"does not exist, nor does an ending of it in {self.where}: name its folder "
                places.append(Place(path, "file-missing", f"{text}with DATA="))
        return places


def finder_of(
    table: Path, root: str | os.PathLike | None = None, data: Sequence[Path] = ()
) -> Finder:
    """Return what finds the images of a table: in its folder, or `root`, and in those of `data`.

    Raises
    ------
    InputError
        If a folder of `data` does not exist.
    """
    if absent := [str(folder) for folder in data if not os.path.isdir(folder)]:
        raise InputError("DATA: expected folders", [f"{one}: no such folder" for one in absent])
    base = os.path.dirname(os.path.abspath(table))
    roots = [os.path.abspath(folder) for folder in (base if root is None else root, *data)]
    return Finder(base, roots, {getattr(os, "geteuid", int)(), os.stat(table).st_uid})


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(os.path.join(root, ""))


def _wholes(folders: pd.Series, names: pd.Series, base: str) -> tuple[list[str], list[str]]:
    """Return folder and name of each file, with slashes, folders in the names moved over."""
    exists: dict[str, bool] = {}

    def slashes(text: str) -> str:
        text = text.replace("\0", "\ufffd")
        if "\\" in text and text not in exists:
            exists[text] = os.path.lexists(os.path.join(base, text))
        return text if "\\" not in text or exists[text] else text.replace("\\", "/")

    wholes, files = [], []
    for folder, name in zip(map(slashes, folders), map(slashes, names), strict=True):
        head, slash, tail = name.rpartition("/")
        alone = name.startswith("/") or WINDOWS.match(name) or SCHEME.match(name) or not folder
        wholes.append(head + slash if alone else f"{folder.rstrip('/') or '/'}/{head}".rstrip("/"))
        files.append(unquote(tail) if SCHEME.match(wholes[-1] or tail) else tail)
    return wholes, files


def find_images(
    rows: pd.DataFrame, channels: Sequence[str], finder: Finder
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the path of every image, links followed, and what is wrong with it.

    Parameters
    ----------
    rows : DataFrame
        ``FileName_`` and ``PathName_`` of each channel.
    channels : sequence of str
    finder : Finder

    Returns
    -------
    paths : DataFrame
        A column per channel, categorical, with the same categories.
    places : DataFrame
        The `Place` of each.
    """
    numbers: dict[str, np.ndarray] = {}
    wholes: list[str] = []
    files: list[str] = []
    for channel in channels:
        folders, names = (rows[f"{part}Name_{channel}"].str.strip() for part in ("Path", "File"))
        codes, first = joint_codes(folders, names)
        numbers[channel] = codes + len(wholes)
        these = _wholes(folders.iloc[first], names.iloc[first], finder.base)
        wholes += these[0]
        files += these[1]
    asked = pd.DataFrame({"whole": wholes, "file": files}, dtype=str)
    found: dict[int, Place] = {}
    for whole, part in asked.groupby("whole", sort=False):
        found |= dict(zip(part.index, finder.find(str(whole), part["file"].tolist()), strict=True))
    places = [found[number] for number in range(len(asked))]
    codes, kinds = pd.factorize(pd.array([place.path for place in places], dtype=str))
    paths = {key: pd.Categorical.from_codes(codes[those], kinds) for key, those in numbers.items()}
    found_at = {
        key: pd.Series([places[number] for number in those], rows.index)
        for key, those in numbers.items()
    }
    return pd.DataFrame(paths, rows.index), pd.DataFrame(found_at, rows.index)


def notes(path: Path, finder: Finder) -> list[Problem]:
    """Say which paths of a table were taken from elsewhere."""
    problems = []
    for (start, root), n in finder.moved.items():
        text = f"{path}: {n:,} files: {start!r} is read as {root!r}"
        problems.append(Problem(text, "paths-moved", str(path), 1, n=1, severity="note"))
    if finder.respelt:
        named, found = next(iter(finder.respelt.items()))
        more = len(finder.respelt) - 1
        text = f"{path}: {named!r} is {found!r} on disk" + f", and {more:,} more are spelt so" * (
            more > 0
        )
        problems.append(Problem(text, "paths-moved", str(path), 1, n=1, severity="note"))
    return problems


def to_fetch(path: Path, finder: Finder, folders: Iterable[str]) -> Problem:
    """Say in one problem how images are fetched that lie at addresses."""
    folders = sorted({*folders})
    common = posixpath.commonpath(folders) if len(folders) > 1 else folders[0]
    common = re.sub(r"^([A-Za-z0-9+.-]+):/(?!/)", r"\1://", common).rstrip("/") + "/"
    scheme = SCHEME.match(common)
    command = FETCH.get(scheme[1].lower() if scheme else "")
    how = (
        f"with {command.format(common)}"
        if command
        else "into a folder DIR, keeping the folders of their addresses"
    )
    text = f"the images are at {common} and not in {finder.where}: fetch them {how}"
    return Problem(f"{path}: {text}, and give DATA=DIR", "file-remote", str(path), 1)


def common_folder(finder: Finder, files: pd.DataFrame) -> str:
    """Return the folder that holds all files: the first root, or one above it."""
    folders = {
        os.path.dirname(name) for column in files for name in files[column].dropna().unique()
    }
    home = finder.real[0]
    return (
        home if all(_below(one, home) for one in folders) else os.path.commonpath([home, *folders])
    )
