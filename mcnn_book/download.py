"""Fetch a public screen, or the tables of real plates: several files at a time, checked.

``make data`` runs it. BBBC021v1 (Ljosa, Sokolnicki & Carpenter 2012, Nature Methods 9, 637) is
three tables and 55 archives, one per plate, which are then unpacked. Only the image table says
where an image is written; the paths inside an archive do not count. An archive, and the folder of
a plate, exists whole or not at all. What has come of a file when a run stops lies next to its place
under a temporary name, and the next run fetches the rest. The publishers give no checksums: the
SHA-256 of each file is recorded in ``fetched.json`` when it is first seen, and a file that differs
later is refused; those of the tables in `REAL_TABLES` are known beforehand. Nothing comes from
another address than those named here or the one that was named, nothing that exists is replaced,
and what someone else has put into the folder stays.
"""

import os
import re
import shutil
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from tqdm import tqdm

from mcnn_book.transfer import (
    FOUND,
    Part,
    Run,
    checked,
    do_all,
    remember,
    sizes_at,
    taken,
    transfer,
)
from mcnn_core.errors import InputError
from mcnn_core.machine.files import (
    atomic,
)
from mcnn_core.readers.bbbc021 import read_bbbc021
from mcnn_core.screen import Screen

BBBC021 = "https://data.broadinstitute.org/bbbc/BBBC021/"


#: The Gene Ontology Consortium's current release: graph, and human genes by UniProt accession and
#: symbol.
GO, GO_FILES = (
    "https://current.geneontology.org/",
    ("ontology/go.obo", "annotations/goa_human.gaf.gz"),
)


#: Repositories, at a commit each, that hold the tables of the chapter on real plates.
GALLERY, JUMP, EVAL = (
    f"https://raw.githubusercontent.com/{path}/"
    for path in (
        "cytomining/cytominergallery/949942d3fe524164552bdd0dc9cc5c5392f37d4d/inst/extdata",
        "BharathiVeerasankar/Exploring-High-dimensional-Cell-painting-data",
        "cytomining/cytominer-eval/46595cf2fe97e9250b4b06bb9fe5aa8eb682f256"
        "/cytominer_eval/example_data/compound",
    )
)


#: Tables of real plates by screen: the name that each gets, its address and its SHA-256.
REAL_TABLES: dict[str, list[tuple[str, str, str]]] = {
    "ljosa": [
        (
            "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz",
            f"{GALLERY}ljosa_jbiomolscreen_2013_per_well_mean.csv.gz",
            "f723a6f78bf66ce7713226c890eb499a2687f22bc095968d5043f6a40e7847ee",
        ),
    ],
    "jumpmoa": [
        (
            "jumpmoa_Yokogawa_Japan_20X.csv",
            f"{JUMP}390e2f178cc9316d0de34ce05da24fd4704409b0/normalized_feature_select_plate.csv",
            "201c6c3371fc7de8ec5e416b803c17c5254f886ef1e22174a98e20554c3e1830",
        ),
        (
            "jumpmoa_Yokogawa_US_20X_5Ch.csv",
            f"{JUMP}86dd2ad7335dd21d4da68081092668c3cab9d6da"
            "/Yokogawa_20X_5Ch/normalized_feature_select_batch.csv",
            "594518205fa07403eb84c48302cb3396708aa9ce58166edb83a5af807898010d",
        ),
        (
            "jumpmoa_Yokogawa_US_20X_5Ch_2.csv",
            f"{JUMP}739f17d7044bbd6427a2877402a86a16b244ca95"
            "/Yokogawa_US/Yokogawa_US_20X_5Ch/normalized_feature_select_batch_2.csv",
            "6485e83c9ea67b48bba0d957d19ba8d2d007c8721b98f47002fd5999fbbd4fed",
        ),
        (
            "jumpmoa_Yokogawa_US_20X_Ch6_plate1.csv",
            f"{JUMP}739f17d7044bbd6427a2877402a86a16b244ca95"
            "/Yokogawa_US/Yokogawa_US_20X_Ch6_plate1/normalized_feature_select_batch.csv",
            "d3f40542e24284b561f83e29efe3143376f656b3dc2ce83480b43b6732df1959",
        ),
        (
            "jumpmoa_Yokogawa_US_40X.csv",
            f"{JUMP}13371e779e8b2e7d58ee7e9f764b241d70064bb5"
            "/Yokogawa_40X_plate2/normalized_feature_select_batch.csv",
            "9a4a36e960c6793f57503c519c539c1875350701aae727b5f80f55140e39428b",
        ),
    ],
    "lincs": [
        (
            "lincs_SQ00015054.csv.gz",
            f"{EVAL}SQ00015054_normalized_feature_select.csv.gz",
            "0dab037c26926b143d3d64210bde3aa94943691edd226915dada9db85f5bd1c7",
        ),
    ],
}


TABLES = ("BBBC021_v1_image.csv", "BBBC021_v1_moa.csv", "BBBC021_v1_compound.csv")


ARCHIVE = "BBBC021_v1_images_{}.zip"


#: Most bytes that an image may unpack to, and what each counts for on the disk: 1024 x 1280 pixels
#: of 16 bit are 2.6 MB.
IMAGE_BYTES = 3 * 2**20


def _members(
    archive: str, members: Sequence[zipfile.ZipInfo], images: set[str]
) -> dict[str, zipfile.ZipInfo]:
    """Return the member that holds each image.

    Refuse an archive that lacks one, or has members that are not plain files.
    """
    found, problems = {}, []
    for member in members:
        path = PureWindowsPath(member.filename)  # knows / and \ and drives
        wanted = path.name in images and not member.is_dir()
        wrong = {
            "leads out of the folder": bool(path.anchor) or ".." in path.parts,
            "is a link or a device": stat.S_IFMT(member.external_attr >> 16)
            not in (0, stat.S_IFREG, stat.S_IFDIR),
            "is encrypted": bool(member.flag_bits & 1),
            # zipfile unpacks the other methods without a bound on memory.
            "is not stored or deflated": member.compress_type
            not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
            f"has {member.file_size:,} bytes, expected at most {IMAGE_BYTES:,}": wanted
            and member.file_size > IMAGE_BYTES,
            "occurs twice": wanted and path.name in found,
        }
        problems += [
            f"{archive}: {member.filename!r} {reason}" for reason, so in wrong.items() if so
        ]
        if wanted:
            found[path.name] = member
    problems += [f"{archive}: {name!r} is missing" for name in sorted(images - set(found))]
    if problems:
        raise InputError(
            f"{archive}: refused for {len(problems)} problems; delete it to have it fetched again",
            problems,
        )
    return found


def _unpack(archive: Path, place: Path, images: Sequence[str]) -> int:
    """Write the images of a plate into the new folder `place`.

    Return the number of other files, which are left out.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(archive.name, opened.infolist(), set(images))
            with atomic(place, "fetched plate") as temporary:
                temporary.mkdir()
                for name, member in members.items():
                    with opened.open(member) as source:
                        content = source.read(IMAGE_BYTES + 1)
                    if len(content) != member.file_size:
                        raise zipfile.BadZipFile(
                            f"{member.filename!r} has {len(content):,} bytes and says "
                            f"{member.file_size:,}"
                        )
                    (temporary / name).write_bytes(content)
            return sum(not member.is_dir() for member in opened.infolist()) - len(members)
    except InputError:
        raise
    # A damaged archive can fail anywhere in zipfile, with whatever exception that line raises.
    except Exception as error:
        raise InputError(
            f"{archive.name}: cannot be unpacked: {type(error).__name__}: {error}; delete it to "
            "have it fetched again"
        ) from error


def _place(plate: str) -> str:
    return f"{plate.partition('_')[0]}/{plate}"


def _plates(screen: Screen, only: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of the images of each plate in `only`.

    Refuse a table whose plates have no folder of their own.
    """
    images, problems = {}, []
    for plate, rows in screen.table.groupby("Metadata_Plate"):
        places = {place for channel in screen.channels for place in rows[f"PathName_{channel}"]}
        images[plate] = [
            name for channel in screen.channels for name in rows[f"FileName_{channel}"]
        ]
        if not re.fullmatch("Week[0-9]+_[0-9]+", plate) or places != {_place(plate)}:
            problems.append(f"plate {plate!r} in {', '.join(map(repr, sorted(places)))}")
    if problems:
        raise InputError(
            f"{screen.root}: expected plates of BBBC021 named like Week1_22123, in folders like "
            "Week1/Week1_22123",
            problems,
        )
    weeks = {plate: plate.partition("_")[0] for plate in images}
    known = [*dict.fromkeys(weeks.values()), *images]
    if not set(only) <= set(known):
        raise InputError(
            f"expected weeks or plates of BBBC021: {', '.join(known)}",
            [name for name in only if name not in known],
        )
    return {
        plate: names
        for plate, names in images.items()
        if not only or {plate, weeks[plate]} & set(only)
    }


def _absent(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the names of which no file is there, packed by gzip or not."""
    return [
        name
        for name in names
        if not any((folder / f"{name}{end}").is_file() for end in ("", ".gz"))
    ]


def _tables(run: Run) -> Screen:
    """Fetch the tables that are not there and read the screen."""
    sizes = sizes_at(run, _absent(run.folder, TABLES))
    digests: dict[str, str] = {}
    do_all(
        run,
        lambda name: digests.update({name: transfer(run, name, sizes[name])}),
        sizes,
        [f"{ARCHIVE.format('<plate>')} of each plate"],
    )
    try:
        screen = read_bbbc021(run.folder)
    except InputError as error:
        raise InputError(
            f"{error.what} (a table that you delete is fetched again)", error.problems
        ) from error
    for name, digest in digests.items():
        remember(run, name, digest, run.address + name)
    return screen


def _plate(run: Run, plate: str, images: Sequence[str], size: int | str | None) -> None:
    """Fetch the archive of a plate unless it is there (`size` None), unpack it and record it.

    It is deleted if it was fetched, now or by a run that was stopped.
    """
    archive = run.folder / ARCHIVE.format(plate)
    if size is None:
        Part(archive).anew("")  # of a run before it was put there
        digest, known = checked(run, archive.name, archive), run.records.get(archive.name, {})
        source = known["address"] if "packed" in known and known["sha256"] == digest else FOUND
    else:
        digest, source = transfer(run, archive.name, size), run.address + archive.name
        remember(run, archive.name, digest, source, packed=True)
    others = _unpack(archive, run.folder / _place(plate), images)
    remember(run, archive.name, digest, source)
    if source != FOUND:
        archive.unlink()
    if not run.bar.disable:
        run.bar.write(
            f"{plate}: {len(images)} images"
            + f"; {others} files that the image table does not name are left out" * bool(others)
            + f"; {archive.name}, found in the folder, is kept" * (source == FOUND)
        )


def fetch_bbbc021(
    folder: str | os.PathLike,
    only: Sequence[str] = (),
    address: str = BBBC021,
    workers: int = 4,
    progress: bool = True,
) -> list[str]:
    """Fetch what is not there yet of BBBC021v1, for `mcnn_core.readers.bbbc021.read_bbbc021`.

    Parameters
    ----------
    folder : path
        Gets the tables, ``Week1/Week1_22123`` and so on, and ``fetched.json`` (of each file: bytes,
        SHA-256, day first seen, address). Tables (also .csv.gz) and archives that lie here are
        used, not fetched, and stay; an archive that was fetched is deleted once unpacked.
    only : sequence of str
        Weeks ("Week1") and plates ("Week2_24381"); all by default.
    address : str
        The publisher's, or that of a copy with the same files.
    workers : int
        Archives that are fetched and unpacked at the same time.
    progress : bool

    Returns
    -------
    list of str
        Plates that were not there before.

    Raises
    ------
    InputError
        Before any plate is fetched, for an unknown name in `only` or a disk too small; else at the
        end, with every file that could not be fetched or was refused. The other plates stay.
    """
    folder = Path(folder)
    with (
        taken(folder, r"Week[0-9]+|BBBC021_v1_.*\.(csv|csv\.gz|zip)") as records,
        tqdm(unit="B", unit_scale=True, desc="fetch", disable=not progress) as bar,
    ):
        run = Run(folder, address.rstrip("/") + "/", workers, bar, records)
        images = _plates(_tables(run), only)
        absent = {
            plate: ARCHIVE.format(plate)
            for plate in images
            if not (folder / _place(plate)).is_dir()
        }
        sizes = sizes_at(run, [name for name in absent.values() if not (folder / name).is_file()])
        known = sorted(size for size in sizes.values() if isinstance(size, int))
        needed, free = (
            IMAGE_BYTES * sum(len(images[plate]) for plate in absent) + sum(known[-workers:]),
            shutil.disk_usage(folder).free,
        )
        if free < needed:
            raise InputError(
                f"{folder.resolve()}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are "
                "free; make room, or fetch a part (ONLY=Week1)"
            )
        bar.reset(total=sum(known))
        do_all(
            run, lambda plate: _plate(run, plate, images[plate], sizes.get(absent[plate])), absent
        )
    return list(absent)


def _fetch_files(run: Run, names: Sequence[str]) -> list[str]:
    """Fetch the files that are not there, packed by gzip or not, and return their names."""
    sizes = sizes_at(run, _absent(run.folder, names))
    needed, free = (
        sum(size for size in sizes.values() if isinstance(size, int)),
        shutil.disk_usage(run.folder).free,
    )
    if free < needed:
        raise InputError(
            f"{run.folder.resolve()}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are "
            "free"
        )
    run.bar.reset(total=needed)
    do_all(
        run,
        lambda name: remember(run, name, transfer(run, name, sizes[name]), run.source(name)),
        sizes,
    )
    return list(sizes)


def fetch_go(folder: str | os.PathLike, address: str = GO, progress: bool = True) -> list[str]:
    """Fetch the Gene Ontology and its human annotation.

    They are for `mcnn_core.readers.ontology.load_go` with ``column="symbol"``.

    Parameters
    ----------
    folder : path
        Gets `GO_FILES` and ``fetched.json``, as for `fetch_bbbc021`. A file that lies here is used,
        not fetched.
    address : str
        The publisher's, or that of a copy with the same files.
    progress : bool

    Returns
    -------
    list of str
        Files that were not there before.

    Raises
    ------
    InputError
        With every file that could not be fetched; a disk too small.
    """
    folder = Path(folder)
    with (
        taken(folder, "ontology|annotations") as records,
        tqdm(unit="B", unit_scale=True, desc="fetch", disable=not progress) as bar,
    ):
        run = Run(folder, address.rstrip("/") + "/", len(GO_FILES), bar, records)
        return _fetch_files(run, GO_FILES)


def fetch_tables(
    folder: str | os.PathLike, screen: str, address: str = "", progress: bool = True
) -> list[str]:
    """Fetch the tables of real wells that others have described (`mcnn_book.real_plates`).

    Parameters
    ----------
    folder : path
        Gets the tables in `REAL_TABLES`, of ``"ljosa"`` also those of BBBC021, and
        ``fetched.json``, as for `fetch_bbbc021`. A file that lies here, packed by gzip or not, is
        used, not fetched. The folder may be that of other fetched files.
    screen : {"ljosa", "jumpmoa", "lincs"}
    address : str, optional
        That of a copy which has all files under the names that they get here.
    progress : bool

    Returns
    -------
    list of str
        Files that were not there before.

    Raises
    ------
    InputError
        With every file that could not be fetched, or is not the one with the known SHA-256; a disk
        too small.
    """
    folder, names = Path(folder), [name for name, *_ in REAL_TABLES[screen]]
    with (
        taken(folder, r"(ljosa|jumpmoa|lincs)_.*\.csv(\.gz)?|BBBC021_v1_.*\.csv(\.gz)?") as records,
        tqdm(unit="B", unit_scale=True, desc="fetch", disable=not progress) as bar,
    ):
        places = {} if address else {name: place for name, place, _ in REAL_TABLES[screen]}
        hashes = {name: known for name, _, known in REAL_TABLES[screen]}
        at = (address or BBBC021).rstrip("/") + "/"
        run = Run(folder, at, len(names), bar, records, places, hashes)
        return _fetch_files(run, [*names, *(TABLES if screen == "ljosa" else ())])
