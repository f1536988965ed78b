"""What is fuzzed: one target per reader, with files to begin from.

A reader may return or end in `InputError` or `MissingStageError`. Any other exception, `SECONDS`
without an end, or more than `MEMORY` bytes beyond what the process had before is a finding.
"""

import gzip
import io
import json
import os
import resource
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.machine.files import sha256
from mcnn_core.readers.bbbc021 import read_bbbc021
from mcnn_core.readers.folders import write_folder_table
from mcnn_core.readers.formats import Pages
from mcnn_core.readers.imagehts import read_wells
from mcnn_core.readers.images import Picture, image_header, read_image
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.readers.ontology import read_associations, read_obo

MEMORY = 2**30  #: bytes of address space that a reader may add
SECONDS = 10.0  #: seconds of computing that a reader may take
LONGEST = 2**16  #: bytes of an input
BREAK = b"\n=====\n"  #: between the files of one input


@dataclass(frozen=True)
class Target:
    """A reader under test."""

    name: str
    readers: str  #: the functions that are called
    read: Callable[[Path, bytes], None]  #: writes the input into an empty folder and reads it
    seeds: Callable[[], list[bytes]]


def attempt(target: Target, folder: Path, data: bytes) -> None:
    """Let a target read `data` in `folder`; what comes out of here is a finding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.read(folder, data)
        except (InputError, MissingStageError) as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, MemoryError) or "allocate" in str(cause):
                raise MemoryError(str(error)) from error


def limit_memory() -> None:
    """Let this process take `MEMORY` bytes of address space more than it has now."""
    pd.Series(["text"], dtype=str)  # the first one reserves space for all others
    now = (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        * resource.getpagesize()
    )
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))


def _each(*reads: Callable[[], object]) -> None:
    """Call all, also after one has refused; raise the last refusal."""
    refused = None
    for read in reads:
        try:
            read()
        except InputError as error:
            refused = error
    if refused is not None:
        raise refused


# ------------------------------------------------------------------------------ tables

LOADDATA = """\
Metadata_Plate,Metadata_Well,Metadata_Site,Metadata_Compound,Metadata_Concentration,\
Metadata_MoA,FileName_DNA,PathName_DNA
P1,B02,1,DMSO,0,,a.tif,
P1,B03,1,"taxol, pure",0.3,tubulin,b.tif,.
P1,b3,2,taxol,3E-1,,c.tif,./
"""
BBBC021 = """\
TableNumber,ImageNumber,Image_FileName_DAPI,Image_PathName_DAPI,Image_FileName_Tubulin,\
Image_PathName_Tubulin,Image_FileName_Actin,Image_PathName_Actin,Image_Metadata_Plate_DAPI,\
Image_Metadata_Well_DAPI,Replicate,Image_Metadata_Compound,Image_Metadata_Concentration
1,1,G10_s1_w1A.tif,Week1/P1,G10_s1_w2B.tif,Week1/P1,G10_s1_w4C.tif,Week1/P1,Week1_P1,G10,1,taxol,0.3
1,2,G11_s1_w1A.tif,Week1/P1,G11_s1_w2B.tif,Week1/P1,G11_s1_w4C.tif,Week1/P1,Week1_P1,G11,1,DMSO,0
"""
MECHANISMS = "compound,concentration,moa\ntaxol,0.300000,Microtubule stabilizers\n"


def _read_table(folder: Path, data: bytes) -> None:
    for name in ("a.tif", "b.tif", "c.tif"):
        (folder / name).touch()
    first, second, rest = data.partition(BREAK)
    packed = ".gz" if data.startswith(b"\x1f\x8b") else ""
    if not second:
        path = folder / f"screen.csv{packed}"
        path.write_bytes(data)
        read_loaddata(path)
    else:
        (folder / f"BBBC021_v1_image.csv{packed}").write_bytes(first)
        (folder / "BBBC021_v1_moa.csv").write_bytes(rest)
        read_bbbc021(folder)


def _table_seeds() -> list[bytes]:
    plain, two = LOADDATA.encode(), BBBC021.encode() + BREAK + MECHANISMS.encode()
    return [
        plain,
        plain.replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + plain,
        gzip.compress(plain, mtime=0),
        two,
    ]


# ------------------------------------------------------------------------------ images


#: Which page is meant: what the file says, one by its number, all planes, one of two channels.
PAGES = (
    Pages(),
    Pages("1"),
    Pages(planes="max"),
    Pages(planes="2", channel="ER", channels=("DNA", "ER")),
)


def _read_picture(name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, data: bytes) -> None:
        path = folder / name
        path.write_bytes(data)
        whole = [Picture(str(path), pages=(pages,)) for pages in PAGES]
        part = whole[0]._replace(tile="0:2,0:3")
        _each(
            *(partial(image_header, one) for one in whole),
            *(partial(read_image, one) for one in [*whole, part]),
        )

    return read


def _tiff_seeds() -> list[bytes]:
    image = np.arange(80, dtype=np.uint16).reshape(8, 10)
    palette = np.stack([np.arange(256, dtype=np.uint16) * 257] * 3)
    kinds = [
        {},
        {"compression": "zlib"},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"rowsperstrip": 2},
        {"photometric": "miniswhite"},
        {"description": '{"shape": [8, 10]}'},
    ]
    files = []
    for pixels, packing, tags in (
        (image.astype(np.uint8), "packbits", {}),
        (image.astype(np.uint8), "jpeg", {}),
        (image, "zstd", {}),
        (image.astype(np.float32), "tiff_lzw", {}),
        (np.dstack([image.astype(np.uint8)] * 3), "tiff_lzw", {}),
        (image, "tiff_lzw", {}),
        (image, "tiff_lzw", {317: 2, 278: 3}),
    ):
        packed = io.BytesIO()
        Image.fromarray(pixels).save(packed, "TIFF", compression=packing, tiffinfo=tags)
        files.append(packed.getvalue())
    for image_, kind in [(image, kind) for kind in kinds] + [
        (image.astype(np.uint8), {}),
        (np.stack([image, image]), {"photometric": "minisblack"}),
        (np.dstack([image] * 3), {"photometric": "rgb"}),
        (image + 0.5, {}),
        (image.astype(np.int16), {}),
        (image.astype(np.uint8), {"photometric": "palette", "colormap": palette}),
        (np.stack([image, image]), {"imagej": True, "metadata": {"axes": "ZYX"}}),
        (np.stack([image, image]), {"ome": True, "metadata": {"axes": "CYX"}}),
        (np.stack([[image] * 2] * 2), {"ome": True, "metadata": {"axes": "ZCYX"}}),
    ]:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, image_, **kind)
        files.append(buffer.getvalue())
    return files


def _jpeg_seeds() -> list[bytes]:
    files, grey = [], Image.fromarray(np.arange(240, dtype=np.uint8).reshape(12, 20))
    for image, kind in (
        (grey, {}),
        (grey, {"progressive": True}),
        (grey, {"dpi": (72, 72), "comment": "plate"}),
        (grey.convert("RGB"), {}),
        (grey.convert("CMYK"), {}),
        (grey, {"exif": Image.Exif()}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", **kind)
        files.append(buffer.getvalue())
    return files


def _png_seeds() -> list[bytes]:
    files, grey = [], np.arange(240, dtype=np.uint8).reshape(12, 20)
    for image in (
        Image.fromarray(grey),
        Image.fromarray(grey.astype(np.uint16) * 250),
        Image.fromarray(np.dstack([grey] * 3)),
        Image.fromarray(np.dstack([grey, grey | 255])),
        Image.fromarray(grey).convert("P"),
        Image.fromarray(grey > 9),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


# ------------------------------------------------------------------------------ OME-Zarr


def _read_zarr(folder: Path, data: bytes) -> None:
    import zarr  # noqa: F401  # not within the memory that a reader may take

    plate, _, rest = data.partition(BREAK)
    metadata, _, chunk = rest.partition(BREAK)
    name = ".zarray" if b'"compressor"' in metadata else "zarr.json"
    home = folder / "P1.zarr" / "B" / "2" / "0" / "0"
    for key in ("0.0.0", "1.0.0", "c/0/0/0", "c/1/0/0"):
        (home / key).parent.mkdir(parents=True, exist_ok=True)
        (home / key).write_bytes(chunk)
    (home / name).write_bytes(metadata)
    facts = {"well": {"images": [{"path": "0"}]}, "multiscales": [{"datasets": [{"path": "0"}]}]}
    for above, text in (("../..", json.dumps(facts)), ("..", json.dumps(facts))):
        (home / above / ".zattrs").write_text(text, encoding="utf-8")
    (folder / "P1.zarr" / ".zattrs").write_bytes(plate)
    path = home / name
    _each(
        lambda: write_folder_table(folder, folder / "plates.csv"),
        *(partial(image_header, Picture(str(path), pages=(pages,))) for pages in PAGES),
        *(partial(read_image, Picture(str(path), pages=(pages,))) for pages in PAGES),
    )


def _zarr_seeds() -> list[bytes]:
    import tempfile

    import zarr

    plate = b'{"plate": {"name": "P1", "wells": [{"path": "B/2"}], "acquisitions": []}}'
    files = []
    for kind in (
        {"zarr_format": 2},
        {"zarr_format": 2, "compressors": None, "dtype": ">u2"},
        {"zarr_format": 2, "compressors": {"id": "gzip", "level": 1}},
        {"zarr_format": 2, "compressors": {"id": "blosc", "cname": "lz4", "clevel": 1}},
        {"zarr_format": 3},
        {"zarr_format": 3, "shards": (2, 8, 10), "dimension_names": ("z", "y", "x")},
    ):
        with tempfile.TemporaryDirectory() as name:
            shape = {"shape": (2, 8, 10), "chunks": (1, 8, 10), "dtype": "<u2"} | kind
            zarr.create_array(name, **shape)[...] = np.arange(160).reshape(2, 8, 10)
            parts = [
                next(Path(name, one).read_bytes() for one in names if Path(name, one).exists())
                for names in ((".zarray", "zarr.json"), ("0.0.0", "c/0/0/0"))
            ]
        files.append(BREAK.join([plate, *parts]))
    return files


# ------------------------------------------------------------------------------ ontology

OBO = """\
format-version: 1.2
default-namespace: biological_process

[Term]
id: GO:1
name: root
namespace: biological_process

[Term]
id: GO:2
name: leaf ! a comment
alt_id: GO:9
is_a: GO:1 ! root
relationship: part_of GO:1 {source="x"}

[Term]
id: GO:3
is_obsolete: true

[Typedef]
id: part_of
"""
GAF = (
    "!gaf-version: 2.2\n"
    + "\t".join(
        [
            "DB",
            "7157",
            "TP53",
            "NOT|involved_in",
            "GO:2",
            "PMID:1",
            "IDA",
            "",
            "P",
            "",
            "",
            "gene",
            "taxon:9606",
            "20200101",
            "X",
            "",
            "",
        ]
    )
    + "\n"
)
GAF += GAF.split("\n")[1].replace("NOT|", "") + "\n"


def _read_ontology(folder: Path, data: bytes) -> None:
    first, _, second = data.partition(BREAK)
    (folder / "go.obo").write_bytes(first)
    (folder / "go.gaf").write_bytes(second or first)
    _each(
        lambda: read_obo(folder / "go.obo"),
        lambda: read_associations(folder / "go.gaf"),
        lambda: read_associations(folder / "go.gaf", column="symbol"),
    )


def _ontology_seeds() -> list[bytes]:
    return [
        OBO.encode() + BREAK + GAF.encode(),
        gzip.compress(OBO.encode(), mtime=0),
        GAF.encode(),
        OBO.replace("\n", "\r\n").encode(),
        OBO.encode() + BREAK + b"#tax_id\tGeneID\n9606\t1\tT:1\tIDA\tNOT part_of\tx\t1\tProcess\n",
    ]


# ------------------------------------------------------------------------------ conf files

CONF = (
    "PlateNames: P1, P2\nReplicateNames: a, b\nRowNames: A, B\nColNames: 1, 2\n"
    "ChannelNames: DNA, actin\nMontage: 2, 2\n"
    "SourceFilenamePattern: images/{plate}-{replicate}/{row}{col}_{channel}.jpeg\n",
    "Wells: 4\nPlates: 2\nPlate\tWell\tContent\n"
    "*\t*\tsample\n*\tA01\tneg\n[12]\tB0?1\tempty\n1|2\t(B02)\tplk1\n",
    "Plate\tReplicate\tWell\tFlag\n1\t2\tA02\tNA\n",
    "Plate\tWell\tsiRNAID\tGeneID\tLocusID\tContent\n1\tA02\ts1\tTP53\t7157\tsample\n"
    "2\tA02\ts2\tPLK1\t5347\tsample\n"
    "1\tB02\ts3\tplk1\tNA\tcontrol\n1\tB01\tempty\tempty\tempty\tempty\n",
)


def _read_conf(folder: Path, data: bytes) -> None:
    (folder / "conf").mkdir()
    for name, part in zip(
        ("imageconf.txt", "plateconf.txt", "screenlog.txt", "annotation.txt"),
        data.split(BREAK),
        strict=False,
    ):
        (folder / "conf" / name).write_bytes(part)
    read_wells(folder)


def _conf_seeds() -> list[bytes]:
    parts = [part.encode() for part in CONF]
    return [
        BREAK.join(parts),
        BREAK.join([parts[0].replace(b"Montage: 2, 2\n", b""), *parts[1:]]),
        parts[0],
    ]


# ------------------------------------------------------------------------------ checkpoints


def _read_checkpoint(folder: Path, data: bytes) -> None:
    from mcnn_core.training import load_model

    settings, _, tensors = data.partition(BREAK)
    (folder / "network.yml").write_bytes(settings)
    path = folder / "epoch_001.safetensors"
    path.write_bytes(tensors)
    # As a forger would.
    path.with_suffix(".sha256").write_text(f"{sha256(path)}  {path.name}\n", encoding="ascii")
    load_model(folder)


def _checkpoint_seeds() -> list[bytes]:
    import tempfile

    from mcnn_core.model import NetworkConfig
    from mcnn_core.training import RECIPES, train

    pixels, labels = (
        np.random.default_rng(0).integers(0, 255, (4, 4, 4, 1), dtype=np.uint8),
        np.array([0, 1, 0, 1]),
    )
    network = NetworkConfig(
        (1, 1), fusion=1, hidden=1, norm=True, pool_between=True, average=True, dropout=0.2
    )
    with tempfile.TemporaryDirectory() as folder:
        train(
            SimpleNamespace(pixels=pixels, manifest={"sha256": "seed"}, verify=lambda rows: None),
            labels,
            network,
            replace(RECIPES["default"], epochs=1, batch=4),
            folder,
            progress=False,
        )
        parts = [
            (Path(folder) / name).read_bytes() for name in ("network.yml", "epoch_001.safetensors")
        ]
    return [BREAK.join(parts), BREAK.join([parts[0], parts[1][:200]]), parts[0]]


PICTURES = "images.read_image, images.image_header"
TARGETS = {
    target.name: target
    for target in (
        Target("table", "loaddata.read_loaddata, bbbc021.read_bbbc021", _read_table, _table_seeds),
        Target("tiff", PICTURES, _read_picture("image.tif"), _tiff_seeds),
        Target("jpeg", PICTURES, _read_picture("image.jpeg"), _jpeg_seeds),
        Target("png", PICTURES, _read_picture("image.png"), _png_seeds),
        Target("zarr", f"folders.write_folder_table, {PICTURES}", _read_zarr, _zarr_seeds),
        Target(
            "ontology",
            "ontology.read_obo, ontology.read_associations",
            _read_ontology,
            _ontology_seeds,
        ),
        Target("conf", "imagehts.read_wells", _read_conf, _conf_seeds),
        Target(
            "checkpoint",
            "training.load_model, checkpoint.read, checkpoint.read_yaml",
            _read_checkpoint,
            _checkpoint_seeds,
        ),
    )
}


def emptied(folder: Path) -> Path:
    """Return `folder`, there and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder
