"""Simulated cells: what a compound does to them, and the picture a microscope takes of a field.

Three parts, in the order in which a picture comes about: the biology (what a compound does to a
cell), the cells of one field, optics and camera.

Fields are drawn in micrometres, so that a small field at 1 um per pixel and a full one at the
microscope's own 0.496 um show the same cells. Every random draw comes from a generator seeded by
(seed, name of week, plate, well or compound, site): the order of work and the number of processes
leave no trace in the pixels.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

MICROSCOPE_PIXEL = 0.496296  # um, "XCalibration" in the MetaMorph tag of BBBC021's own TIFFs


# pixels: smaller fields hold no cell to speak of, larger ones no reader of images here takes


# -------------------------------------------------------------------------- biology

# name: (baseline, spread between cells, spread between fields, lowest, highest).
# Lengths in um, amplitudes relative to the DMSO mean, arrangements as odds (logarithms).
PARAMETERS = {
    "radius": (20.0, 2.6, 1.0, 8, 32),
    "elongation": (0.24, 0.15, 0.05, 0, 1.0),
    "spikes": (0.42, 0.17, 0.06, 0, 1.3),
    "nucleus": (8.6, 0.9, 0.4, 4, 14),
    "nucleus_elongation": (0.16, 0.07, 0.03, 0, 0.7),
    "nucleus_offset": (0.08, 0.06, 0.05, 0, 0.6),
    "pieces": (0.8, 0.3, 0.3, 1, 9),
    "scatter": (0.3, 0.2, 0.1, 0, 1),
    "chromatin": (0.15, 0.07, 0.05, 0, 0.7),
    "nucleoli": (2.5, 0.8, 0.3, 0, 6),
    "dna": (1.0, 0.2, 0.1, 0.3, 3),
    "tubulin": (1.0, 0.2, 0.1, 0.3, 3),
    "perinuclear": (0.7, 0.25, 0.12, 0, 2),
    "fibre": (0.38, 0.1, 0.08, 0, 1),
    "coarseness": (0.0, 0.15, 0.2, -0.8, 0.8),
    "radial": (0.5, 0.0, 0.5, -6, 6),
    "parallel": (0.5, 0.0, 0.5, -6, 6),
    "circular": (-2.0, 0.0, 0.8, -6, 6),
    "rim": (0.1, 0.15, 0.15, 0, 2),
    "cap": (0.2, 0.2, 0.15, 0, 2),
    "actin": (1.0, 0.25, 0.1, 0.3, 3),
    "cortex": (0.7, 0.2, 0.15, 0, 2),
    "junction": (0.5, 0.2, 0.15, 0, 2),
    "stress": (0.35, 0.1, 0.1, 0, 1),
    "puncta": (4.0, 2.5, 1.0, 0, 20),
    "puncta_place": (0.6, 0.0, 0.05, 0.1, 1),
    "ruffle": (0.15, 0.15, 0.15, 0, 1.5),
    "vacuoles": (0.0, 0.0, 0.2, 0, 12),
    "mitosis": (-2.7, 0.0, 0.6, -6, 4),
    "apoptosis": (-3.5, 0.0, 0.8, -6, 2),
    "monopolar": (-4.0, 0.0, 0.3, -6, 6),
    "multipolar": (-3.0, 0.0, 0.3, -6, 6),
    "scattered": (-3.0, 0.0, 0.3, -6, 6),
    "density": (0.0, 0.0, 0.4, -1.5, 1),
    "islands": (1.0, 0.0, 0.6, 0, 2.5),
    # staining and microscope: only the spread between fields matters
    "stain_dna": (0.0, 0, 0.15, -1, 1),
    "stain_actin": (0.0, 0, 0.15, -1, 1),
    "stain_tubulin": (0.0, 0, 0.15, -1, 1),
    "gain_dna": (0.0, 0, 0.12, -1, 1),
    "gain_actin": (0.0, 0, 0.12, -1, 1),
    "gain_tubulin": (0.0, 0, 0.12, -1, 1),
    "offset_dna": (0.0, 0, 0.12, -1, 1),
    "offset_actin": (0.0, 0, 0.12, -1, 1),
    "offset_tubulin": (0.0, 0, 0.12, -1, 1),
    "defocus": (0.4, 0, 0.7, 0, 2.5),
    "haze": (0.08, 0, 0.04, 0, 0.4),
    "vignetting": (0.2, 0, 0.1, 0, 0.6),
    "slope_x": (0.0, 0, 0.15, -0.6, 0.6),
    "slope_y": (0.0, 0, 0.15, -0.6, 0.6),
    "debris": (3.0, 0, 2.5, 0, 9),
}


_TABLE = np.array(list(PARAMETERS.values()), float).T


_INDEX = {name: i for i, name in enumerate(PARAMETERS)}


_BIOLOGY = _INDEX["stain_dna"]  # parameters before this one can be moved by a compound


#: What a dried-up place does to its fields, in units of the spread between fields: fewer, larger
#: cells, stained more strongly and less in focus [ours].
DRYING = {
    "density": -4.0,
    "radius": 4.0,
    "stain_dna": 4.0,
    "stain_actin": 4.0,
    "stain_tubulin": 4.0,
    "defocus": 3.0,
}


#: The parameters that change the light of a channel and no cell's outline; chromosomes and spindles
#: stand in two channels. All others change the shape, number or place of whole cells, in all.
PAINTED = {
    "DAPI": {"nucleus", "nucleus_elongation", "nucleus_offset", "pieces", "scatter", "nucleoli"}
    | {"chromatin", "dna", "monopolar", "multipolar", "scattered"},
    "Actin": {"actin", "cortex", "junction", "stress", "puncta", "puncta_place", "ruffle"}
    | {"vacuoles"},
    "Tubulin": {"tubulin", "perinuclear", "fibre", "coarseness", "radial", "parallel", "circular"}
    | {"rim", "cap", "vacuoles", "monopolar", "multipolar", "scattered"},
}


# What a mechanism moves at full response. Sources: BBBC021 and its annotation (Caie 2010, Ljosa
# 2012/2013); monoasters under Eg5 inhibition (Mayer 1999), polyploid lobed nuclei under Aurora
# inhibition (Ditchfield 2003), bundles, multipolar spindles and micronuclei under taxol (Jordan
# 1993), aggresomes under proteasome inhibition (Johnston 1998), arborised cells and actin foci
# under cytochalasin (Schliwa 1982).
MECHANISMS: dict[str, dict[str, float]] = {
    "Actin disruptors": {
        "cortex": -0.5,
        "junction": -0.4,
        "stress": -0.2,
        "puncta": 6,
        "puncta_place": -0.1,
        "spikes": 0.3,
    },
    "Aurora kinase inhibitors": {
        "pieces": 4,
        "scatter": -0.5,
        "nucleus": 1.0,
        "radius": 1.5,
        "mitosis": 1.2,
    },
    "Cholesterol-lowering": {"elongation": 0.4, "spikes": 0.15, "parallel": 5},
    "DNA damage": {
        "nucleus": 1.6,
        "radius": 1.5,
        "nucleoli": 3,
        "nucleus_elongation": -0.12,
        "circular": 6,
    },
    "DNA replication": {
        "nucleus": 1.6,
        "radius": 1.5,
        "nucleoli": -2.5,
        "nucleus_elongation": 0.35,
        "parallel": 5,
    },
    "Eg5 inhibitors": {"mitosis": 2.2, "monopolar": 9},
    "Epithelial": {
        "junction": 0.8,
        "islands": 1.8,
        "spikes": -0.5,
        "elongation": -0.2,
        "cortex": -0.5,
        "radial": -4,
        "parallel": -4,
    },
    "Kinase inhibitors": {"ruffle": 1.3, "nucleus_offset": 0.3, "radial": 6},
    "Microtubule destabilizers": {
        "fibre": -0.15,
        "mitosis": 2.2,
        "scattered": 9,
        "pieces": 3,
        "scatter": 0.8,
        "radial": -4,
        "parallel": -4,
    },
    "Microtubule stabilizers": {
        "rim": 0.5,
        "circular": 8,
        "mitosis": 2.0,
        "multipolar": 9,
        "pieces": 3,
        "scatter": 0.5,
    },
    "Protein degradation": {"cap": 0.7, "nucleus_offset": 0.3, "puncta": 6, "puncta_place": -0.35},
    "Protein synthesis": {
        "nucleoli": -2.5,
        "puncta": 7,
        "puncta_place": 0.3,
        "perinuclear": 0.8,
        "radial": -4,
        "parallel": -4,
    },
    "Vacuolation": {"vacuoles": 7},
    "Cytokinesis failure": {"pieces": 1.1, "scatter": -0.5, "radius": 2.5},
    "Polarised spreading": {"ruffle": 0.8, "cap": 0.7, "elongation": 0.3},
    "Inactive": {},
    "": {},
}


def hill_response(concentration: float, ec50: float, hill: float) -> float:
    """Return the fraction of the full effect, 0 to 1, at a concentration in the unit of `ec50`."""
    return 0.0 if concentration <= 0 else 1.0 / (1.0 + (ec50 / concentration) ** hill)


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """Return the generator of one thing: a week, a plate, a compound or a field of view."""
    return np.random.default_rng([seed, *(zlib.crc32(str(part).encode()) for part in key)])


@dataclass(frozen=True)
class Compound:
    """What one compound does in one simulated world (one seed).

    Attributes
    ----------
    effect : ndarray of float64, (P,)
        Shift of every parameter at full response in a responding cell: the mechanism's,
        each part scaled by the compound's own factor (its sub-phenotype).
    side : ndarray of float64, (P,)
        Off-target shifts of every cell, whatever the mechanism: what makes compounds of one
        mechanism differ, and a treatment's mean a poor guide to it.
    ec50, hill, penetrance : float
        Dose of half response (uM), steepness, fraction of the cells that respond.
    """

    effect: np.ndarray
    side: np.ndarray
    ec50: float
    hill: float
    penetrance: float


def draw_compound(
    seed: int, name: str, mechanism: str, doses: tuple[float, ...], annotated: tuple[float, ...]
) -> Compound:
    """Draw a compound's strength, sub-phenotype and side effects.

    Annotated doses lie above its EC50.
    """
    rng = generator(seed, "compound", name)
    effect = np.zeros(len(PARAMETERS))
    for parameter, shift in MECHANISMS[mechanism].items():
        effect[_INDEX[parameter]] = shift * np.exp(0.3 * rng.standard_normal())
    side = 0.55 * rng.standard_normal(len(PARAMETERS)) * np.hypot(_TABLE[1], 0.5 * _TABLE[2])
    side[_BIOLOGY:] = 0.0
    lowest = min(annotated) if annotated else sorted(doses)[3]
    return Compound(
        effect, side, lowest * rng.uniform(0.2, 0.5), rng.uniform(1.3, 2.2), rng.uniform(0.6, 0.95)
    )


def draw_cells(
    rng: np.random.Generator, compound: Compound, response: float, shift: np.ndarray, n: int
) -> dict[str, np.ndarray]:
    """Draw the parameters of `n` cells of one field, each (n,) float32.

    Each is condition + compound + the cell's own. `response` is `hill_response` at the well's dose;
    `shift`, (P,), holds the field's own conditions in units of the spread between fields.
    """
    base, between_cells, between_fields, low, high = _TABLE
    responds = rng.random(n) < compound.penetrance * min(1.0, 2 * response)
    values = (
        base
        + between_fields * shift
        + response * compound.side
        + between_cells * rng.standard_normal((n, len(base)))
    )
    values += responds[:, None] * response * compound.effect
    values = np.clip(values, low, high).astype(np.float32)
    return {name: values[:, i] for name, i in _INDEX.items()}


# ------------------------------------------------------------------- cells of a field

_BINS = 256  # directions in which a cell's outline is stored


_ATLAS = 512  # side of the tileable noise atlases, in texels of 0.5 um


@cache
def _atlas(kind: str) -> np.ndarray:
    """Return tileable noise, float32 (512, 512).

    "smooth" (mean 0, sd 1) or "ridge" (0 to 1, bright thin lines).
    """
    rng = np.random.default_rng(20180)
    frequency = np.hypot(np.fft.fftfreq(_ATLAS)[:, None], np.fft.rfftfreq(_ATLAS)[None])
    band = np.exp(-0.5 * ((frequency - 0.10) / 0.03) ** 2)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((_ATLAS, _ATLAS))) * band)
    noise /= noise.std()
    return (noise if kind == "smooth" else np.exp(-((noise / 0.45) ** 2))).astype(np.float32)


def _sample(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Look up an atlas at coordinates in um."""
    return _atlas(kind)[(2 * a).astype(np.int32) % _ATLAS, (2 * b).astype(np.int32) % _ATLAS]


def _place(
    rng: np.random.Generator,
    height: float,
    width: float,
    shift: np.ndarray,
    compound: Compound,
    response: float,
) -> np.ndarray:
    """Return cell centres in um, float32 (n, 2).

    Clustered into islands, no two closer than touching cells.
    """
    density, islands, radius = (
        _TABLE[0] + _TABLE[2] * shift + response * (compound.side + compound.effect)
    )[[_INDEX["density"], _INDEX["islands"], _INDEX["radius"]]]
    margin, closest = 20.0, radius * np.clip(1.25 - 0.15 * islands, 0.8, 1.3)
    sides = np.array([height + 2 * margin, width + 2 * margin])
    share = np.clip(0.7 * np.exp(density), 0.1, 1.3)
    wanted = max(1, int(share * sides.prod() / (np.pi * radius**2)))
    candidates = rng.random((12 * wanted, 2)) * sides - margin
    phase = rng.random(2) * _ATLAS
    crowd = _sample("smooth", candidates[:, 0] / 12 + phase[0], candidates[:, 1] / 12 + phase[1])
    candidates = candidates[rng.random(len(candidates)) < np.exp(islands * (crowd - 1.0))]
    kept = np.empty((wanted, 2))
    n = 0
    for candidate in candidates:
        if n < wanted and (n == 0 or ((kept[:n] - candidate) ** 2).sum(1).min() > closest**2):
            kept[n] = candidate
            n += 1
    return kept[: max(n, 1)].astype(np.float32)


def _outlines(rng: np.random.Generator, cells: dict[str, np.ndarray]) -> np.ndarray:
    """Return each cell's radius in 256 directions, um, float32 (n, 256).

    An ellipse drawn out into corners.
    """
    n = len(cells["radius"])
    theta = np.linspace(-np.pi, np.pi, _BINS, endpoint=False, dtype=np.float32)
    stretch = np.exp(2 * cells["elongation"])[:, None]
    along = np.cos(theta - cells["angle"][:, None]) ** 2
    log_radius = -0.5 * np.log(along / stretch + (1 - along) * stretch)
    corners = 6  # the first two lie at the tips of the long axis
    turns = np.array([0, 0.5, 0.15, 0.35, 0.65, 0.85]) + rng.uniform(-0.06, 0.06, (n, corners))
    at = 2 * np.pi * turns + cells["angle"][:, None]
    heights = rng.uniform(0, 1, (n, corners, 1)) * np.array([1.6, 1.6, 1, 1, 1, 1])[:, None]
    peaks = np.exp(18 * (np.cos(theta - at[..., None]) - 1)) * heights
    log_radius = np.where(
        cells["round"][:, None],
        0.15 * log_radius,
        log_radius + cells["spikes"][:, None] * (peaks.sum(1) - 0.55),
    )
    least = np.where(cells["round"], 0, 1.1 * cells["nucleus"])[
        :, None
    ]  # a nucleus fits into its cell
    return np.maximum(cells["radius"][:, None] * np.exp(log_radius), least).astype(np.float32)


class _Canvas:
    """Channel images of one field under construction, with stamps of bodies given in um."""

    def __init__(self, height: int, width: int, pixel: float):
        self.shape, self.pixel = (height, width), pixel
        self.dna, self.actin, self.tubulin = np.zeros((3, height, width), np.float32)
        self.within = np.ones((height, width), np.float32)  # 1 within a cell, where nuclei may lie
        self.rows = np.arange(height, dtype=np.float32) * np.float32(pixel)
        self.columns = np.arange(width, dtype=np.float32) * np.float32(pixel)

    def window(self, y: float, x: float, reach: float) -> tuple[slice, slice] | None:
        """Return the slices of the square around (y, x), or None outside the image."""
        p, (height, width) = self.pixel, self.shape
        top, bottom = max(int((y - reach) / p), 0), min(int((y + reach) / p) + 2, height)
        left, right = max(int((x - reach) / p), 0), min(int((x + reach) / p) + 2, width)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None

    def stamp(
        self,
        image: np.ndarray,
        place: Sequence[float] | np.ndarray,
        axes: tuple[float, float],
        angle: float,
        amount: float,
        soft: bool,
    ) -> None:
        """Draw an ellipse of half axes `axes` at `place`, row and column.

        A solid body (the brighter wins) or a soft blob (added).
        """
        (y, x), (a, b) = place, axes
        reach = max(a, b) * (2.0 if soft else 1.15) + 1
        window = self.window(y, x, reach)
        if window is None:
            return
        dy, dx = self.rows[window[0], None] - np.float32(y), self.columns[window[1]] - np.float32(x)
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        q = ((dx * c + dy * s) / np.float32(a)) ** 2 + ((dy * c - dx * s) / np.float32(b)) ** 2
        if soft:
            image[window] += np.float32(amount) * np.exp(-1.5 * q)
        else:
            view = image[window]
            np.maximum(
                view,
                np.float32(amount) * np.clip((1.2 - q) * 2.5, 0, 1) * (1.05 - 0.15 * q),
                out=view,
            )


def _territories(
    canvas: _Canvas, y: np.ndarray, x: np.ndarray, outlines: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give each pixel to the cell whose outline is relatively nearest.

    Returns
    -------
    nearest, second : ndarray of float32, (H, W)
        Distance from the owner's and from the next cell's centre, 1 at the outline.
    owner : ndarray of int32, (H, W)
    """
    nearest, second = np.full((2, *canvas.shape), 9, np.float32)
    owner = np.zeros(canvas.shape, np.int32)
    for i, outline in enumerate(outlines):
        window = canvas.window(y[i], x[i], 1.15 * outline.max())
        if window is None:
            continue
        dy, dx = canvas.rows[window[0], None] - y[i], canvas.columns[window[1]] - x[i]
        direction = (
            np.arctan2(dy, dx) * np.float32(_BINS / (2 * np.pi)) + np.float32(_BINS / 2)
        ).astype(np.int32) % _BINS
        rho = np.sqrt(dy * dy + dx * dx) / outline[direction]
        best, next_best = nearest[window], second[window]
        np.minimum(next_best, np.maximum(best, rho), out=next_best)
        wins = rho < best
        owner[window][wins] = i
        best[wins] = rho[wins]
    return nearest, second, owner


def _cytoplasm(
    canvas: _Canvas, rng: np.random.Generator, cells: dict[str, np.ndarray], outlines: np.ndarray
) -> None:
    """Draw actin and tubulin of every cell: what depends on the place within the cell."""
    nearest, second, owner = _territories(canvas, cells["y"], cells["x"], outlines)
    canvas.within = np.clip((1.1 - nearest) * 8, 0, 1)
    inside = np.flatnonzero(nearest < 1)
    k = owner.ravel()[inside]
    rho, gap = nearest.ravel()[inside], second.ravel()[inside] - nearest.ravel()[inside]
    dy = canvas.rows[inside // canvas.shape[1]] - cells["y"][k]
    dx = canvas.columns[inside % canvas.shape[1]] - cells["x"][k]
    c, s = np.cos(cells["angle"])[k], np.sin(cells["angle"])[k]
    along, across = dx * c + dy * s, dy * c - dx * s
    radius, theta = np.sqrt(along * along + across * across), np.arctan2(across, along)
    depth = np.minimum((1 - rho), 0.5 * gap + 0.04) * cells["radius"][k]  # um to the cell's border
    height = np.sqrt(np.clip(1 - rho * rho, 0, 1))
    body = np.clip(depth * 0.8, 0, 1) * (0.45 + 0.55 * height)
    scale = np.exp(-cells["coarseness"])[k]
    phase = (rng.random(len(outlines)) * 400).astype(np.float32)[k]
    # one atlas of fibres, laid along the radius, along the long axis, round the nucleus, or without
    # order
    arc, mode = theta * 12, cells["mode"][k]
    a = np.choose(mode, [arc, across, radius, dx])
    b = np.choose(mode, [radius / 6, along / 6, arc / 6, dy])
    fibres = _sample("ridge", a * scale + phase, b * scale + phase)
    calm = ~cells["round"]
    f = (cells["fibre"] * calm)[k]
    near = np.exp(-((radius / (0.55 * cells["radius"][k])) ** 2))
    edge = np.exp(-((depth / 1.3) ** 2))
    thick = np.where(cells["round"], 1.7, 1.0).astype(np.float32)[k]
    tubulin = body * (0.75 + cells["perinuclear"][k] * (near - 0.25))
    tubulin = tubulin * (1 - f + 2.2 * f * fibres) * (1 - 0.35 * cells["rim"])[k]
    tubulin += (cells["rim"] * calm)[k] * np.exp(-(((depth - 2.2) / 1.2) ** 2))
    canvas.tubulin.ravel()[inside] = tubulin * cells["tubulin"][k] * thick
    stress = _sample("ridge", across * 0.8 + phase, along / 8 + phase)
    touching = np.exp(-((gap / 0.12) ** 2)) * (second.ravel()[inside] < 1.3)
    front = along / (radius + 1)  # 1 at the leading edge, -1 behind
    actin = body * (0.6 + (cells["stress"] * calm)[k] * (2 * stress - 0.8))
    ruffled = np.clip(1 + 1.5 * (cells["ruffle"] * calm)[k] * front, 0, None)
    actin += cells["cortex"][k] * edge * ruffled
    actin += cells["junction"][k] * touching * 1.2
    canvas.actin.ravel()[inside] = actin * cells["actin"][k] * thick


def _figure(kind: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return chromosome clumps (9, 2) and spindle poles (m, 2) of a mitotic cell.

    They are in um, before rotation. The same nine clumps and the same amount of tubulin stand as
    metaphase plate (0), rosette round one pole (1), three-armed star (2) or strewn without poles
    (3): only the arrangement differs.
    """
    steps = np.arange(9)
    if kind == 0:
        return np.stack([(steps - 4) * 1.15, 0.5 * rng.standard_normal(9)], 1), np.array(
            [[0, 4.2], [0, -4.2]]
        )
    if kind == 1:
        turn = 2 * np.pi * steps / 9
        return 4.3 * np.stack([np.sin(turn), np.cos(turn)], 1), np.zeros((1, 2))
    if kind == 2:
        turn = 2 * np.pi * (steps % 3) / 3
        arm = (1.0 + 1.7 * (steps // 3))[:, None]
        poles = 2 * np.pi * (np.arange(3) + 0.5) / 3
        return arm * np.stack([np.sin(turn), np.cos(turn)], 1), 4.5 * np.stack(
            [np.sin(poles), np.cos(poles)], 1
        )
    return rng.uniform(-5, 5, (9, 2)), np.zeros((0, 2))


def _bodies(
    canvas: _Canvas, rng: np.random.Generator, cells: dict[str, np.ndarray], outlines: np.ndarray
) -> None:
    """Draw what is counted in a cell.

    Nuclei and fragments, chromosomes, spindles, foci, aggresome, vacuoles.
    """
    for i in range(len(cells["x"])):
        one = {name: values[i] for name, values in cells.items()}
        c, s = np.cos(one["angle"]), np.sin(one["angle"])
        turn, centre = np.array([[c, s], [-s, c]]), np.array([one["y"], one["x"]])
        if one["mitotic"]:
            _mitosis(canvas, rng, one, centre, turn)
        elif one["dead"]:
            for place in centre + rng.normal(0, 1.3, (4, 2)):
                canvas.stamp(canvas.dna, place, (1.9, 1.9), 0, 2.6 * one["dna"], False)
        else:
            nucleus = centre + np.array([0, -one["nucleus_offset"] * one["radius"]]) @ turn
            _nuclei(canvas, rng, one, nucleus)
            _organelles(canvas, rng, one, nucleus, turn, outlines[i])


def _mitosis(
    canvas: _Canvas, rng: np.random.Generator, one: dict, centre: np.ndarray, turn: np.ndarray
) -> None:
    """Draw chromosomes and the poles of the spindle."""
    clumps, poles = _figure(int(one["figure"]), rng)
    for place in centre + clumps @ turn:
        angle = rng.uniform(0, np.pi)
        canvas.stamp(canvas.dna, place, (1.5, 1.2), angle, 1.9 * one["dna"], False)
    for place in centre + poles @ turn:
        angle, amount = rng.uniform(0, np.pi), 2.4 * one["tubulin"] / len(poles)
        canvas.stamp(canvas.tubulin, place, (3.2, 2.4), angle, amount, True)


def _nuclei(canvas: _Canvas, rng: np.random.Generator, one: dict, nucleus: np.ndarray) -> None:
    """Draw the nucleus, or its pieces, and the nucleoli."""
    pieces = int(one["pieces"] + rng.random()) if one["pieces"] > 1 else 1
    own = one["nucleus"] if pieces == 1 else 1.1 * one["nucleus"] / np.sqrt(pieces)
    stretch = np.exp(one["nucleus_elongation"])
    places = nucleus[None]
    if pieces > 1:  # from a flower round an empty middle to strewn over the cell
        turns = 2 * np.pi * (np.arange(pieces) / pieces + rng.random())
        ring = 0.95 * own / np.sin(np.pi / pieces)
        strewn = one["scatter"] * one["radius"] * rng.uniform(0.1, 0.8, pieces)
        far = (1 - one["scatter"]) * ring + strewn
        places = nucleus + far[:, None] * np.stack([np.sin(turns), np.cos(turns)], 1)
    for place in places:
        size = own * rng.uniform(0.8, 1.15) if pieces > 1 else own
        axes, angle = (size * stretch, size / stretch), one["angle"] + rng.normal(0, 0.3)
        canvas.stamp(canvas.dna, place, axes, angle, one["dna"], False)
    axes = (0.8 * one["nucleus"], 0.8 * one["nucleus"])
    canvas.stamp(canvas.tubulin, nucleus, axes, 0, -0.3 * one["tubulin"], True)
    count = int(one["nucleoli"] + rng.random())
    for place in nucleus + 0.5 * own * rng.uniform(-1, 1, (count, 2)):
        canvas.stamp(canvas.dna, place, (1.8, 1.6), 0, -0.45 * one["dna"], True)


def _organelles(
    canvas: _Canvas,
    rng: np.random.Generator,
    one: dict,
    nucleus: np.ndarray,
    turn: np.ndarray,
    outline: np.ndarray,
) -> None:
    """Draw aggresome, foci and vacuoles."""
    if one["cap"] > 0.1:
        place = nucleus + np.array([0, 1.15 * one["nucleus"]]) @ turn
        amount = 1.5 * one["cap"] * one["tubulin"]
        canvas.stamp(canvas.tubulin, place, (4.0, 3.2), one["angle"], amount, True)
    count = int(one["puncta"] + rng.random())
    where = rng.uniform(-np.pi, np.pi, count)
    far = np.clip(one["puncta_place"] + rng.normal(0, 0.12, count), 0.1, 0.9)
    far *= outline[((where / np.pi + 1) * _BINS / 2).astype(int) % _BINS]
    for place in np.stack([one["y"] + far * np.sin(where), one["x"] + far * np.cos(where)], 1):
        canvas.stamp(canvas.actin, place, (1.5, 1.5), 0, 1.6 * one["actin"], True)
    for _ in range(int(one["vacuoles"])):
        place = nucleus + rng.normal(0, 0.5 * one["radius"], 2)
        for image, amount in ((canvas.tubulin, -0.9), (canvas.actin, -0.5)):
            canvas.stamp(image, place, (2.6, 2.6), 0, amount * one["tubulin"], True)


def draw_field(
    rng: np.random.Generator,
    compound: Compound,
    response: float,
    shift: np.ndarray,
    height: int,
    width: int,
    pixel: float,
) -> np.ndarray:
    """Return the light a field emits, float32 (3, H, W): DNA, actin, tubulin.

    A DMSO cell is about 1.
    """
    centres = _place(rng, height * pixel, width * pixel, shift, compound, response)
    n = len(centres)
    cells = draw_cells(rng, compound, response, shift, n)
    cells["y"], cells["x"] = centres.T
    cells["angle"] = rng.uniform(0, 2 * np.pi, n).astype(np.float32)
    odds = {name: 1 / (1 + np.exp(-cells[name])) for name in ("mitosis", "apoptosis")}
    draw = rng.random((2, n))
    cells["mitotic"] = draw[0] < odds["mitosis"]
    cells["dead"] = ~cells["mitotic"] & (draw[1] < odds["apoptosis"])
    cells["round"] = cells["mitotic"] | cells["dead"]
    cells["radius"] = np.where(
        cells["mitotic"], 0.54 * cells["radius"], np.where(cells["dead"], 5.0, cells["radius"])
    ).astype(np.float32)
    gumbel = rng.gumbel(size=(2, 4, n))
    cells["figure"] = (
        np.stack([np.zeros(n), cells["monopolar"], cells["multipolar"], cells["scattered"]])
        + gumbel[0]
    ).argmax(0)
    cells["mode"] = (
        np.stack([cells["radial"], cells["parallel"], cells["circular"], np.zeros(n)]) + gumbel[1]
    ).argmax(0)
    canvas = _Canvas(height, width, pixel)
    outlines = _outlines(rng, cells)
    _cytoplasm(canvas, rng, cells, outlines)
    _bodies(canvas, rng, cells, outlines)
    phase = rng.random(2) * 400
    grain = _sample("smooth", canvas.rows[:, None] + phase[0], canvas.columns + phase[1])
    canvas.dna *= (1 + cells["chromatin"].mean() * grain) * canvas.within
    return np.clip(np.stack([canvas.dna, canvas.actin, canvas.tubulin]), 0, None)


# ---------------------------------------------------------------- optics and camera

# Counts of BBBC021's camera (12 bits stored times 16) in DMSO: background, and light of a cell
# above it.
BACKGROUND = np.array([750.0, 850.0, 650.0])


SIGNAL = np.array([1800.0, 6000.0, 3000.0])


ELECTRONS_PER_COUNT, READ_NOISE, STEP = 0.25, 40.0, 16  # ours; the step is the real files'


def microscope(shift: np.ndarray) -> dict[str, float]:
    """Return all `PARAMETERS` of a field of untreated cells, the microscope's among them."""
    values = np.clip(_TABLE[0] + _TABLE[2] * shift, _TABLE[3], _TABLE[4])
    return dict(zip(PARAMETERS, values, strict=True))


def lamp_of(field: dict[str, float], height: int, width: int) -> np.ndarray:
    """Return how bright the lamp is at each pixel, (H, W), 1 in the middle."""
    y, x = (
        np.linspace(-1, 1, height, dtype=np.float32)[:, None],
        np.linspace(-1, 1, width, dtype=np.float32),
    )
    return (
        (1 - field["vignetting"] * 0.5 * (y * y + x * x))
        * (1 + field["slope_x"] * x)
        * (1 + field["slope_y"] * y)
    )


def photograph(
    rng: np.random.Generator, light: np.ndarray, shift: np.ndarray, pixel: float
) -> np.ndarray:
    """Pass emitted light through microscope and camera.

    Point spread function and defocus (one Gaussian), haze of light out of focus, debris,
    uneven illumination and vignetting, background, Poisson noise (in its Gaussian
    approximation), read noise, and the camera's step of 16 counts. `light` is (3, H, W) float32,
    `shift` as for `draw_cells`, `pixel` in um; returns (3, H, W) uint16.
    """
    field, (height, width) = microscope(shift), light.shape[1:]
    lamp = lamp_of(field, height, width)
    sigma = np.hypot(0.35, field["defocus"]) / pixel
    canvas, dirt = _Canvas(height, width, pixel), np.zeros_like(light)
    # Dust and floating dead cells.
    for _ in range(rng.poisson(field["debris"] * height * width * pixel**2 / 20480)):
        size = np.exp(rng.uniform(np.log(1.5), np.log(12)))
        place = rng.uniform(0, height * pixel), rng.uniform(0, width * pixel)
        axes, angle = (size, size * rng.uniform(0.4, 1)), rng.uniform(0, np.pi)
        for image, amount in zip(dirt, rng.uniform(0, 1.5, 3) * np.array([0.7, 1, 1]), strict=True):
            canvas.stamp(image, place, axes, angle, amount, True)
    out = np.empty(light.shape, np.uint16)
    for c, name in enumerate(("dna", "actin", "tubulin")):
        image = ndimage.gaussian_filter(light[c], sigma, truncate=3) if sigma > 0.3 else light[c]
        haze = ndimage.gaussian_filter(image[::8, ::8], 12 / (8 * pixel), mode="nearest")
        image = (
            image
            + np.float32(field["haze"]) * (_between(height) @ haze @ _between(width).T)
            + dirt[c]
        )
        counts = image * lamp * np.float32(SIGNAL[c] * np.exp(field[f"stain_{name}"])) + np.float32(
            BACKGROUND[c] * np.exp(field[f"offset_{name}"])
        )
        counts *= np.float32(np.exp(field[f"gain_{name}"]))
        noise = rng.standard_normal(counts.shape, dtype=np.float32)
        counts += noise * np.sqrt(
            np.maximum(counts, 0) / ELECTRONS_PER_COUNT * np.float32(0.25) + READ_NOISE**2
        )
        out[c] = np.clip(np.rint(counts / STEP), 0, 4095).astype(np.uint16) * STEP
    return out


@cache
def _between(size: int) -> np.ndarray:
    """Return a matrix, float32 (size, n), that interpolates linearly.

    It does so with every 8th of `size` values.
    """
    at = np.arange(size)[:, None] / 8
    return np.clip(
        1 - np.abs(np.minimum(at, (size - 1) // 8) - np.arange((size + 7) // 8)), 0, 1
    ).astype(np.float32)


def render_field(
    rng: np.random.Generator,
    compound: Compound,
    response: float,
    shift: np.ndarray,
    height: int = 128,
    width: int = 160,
) -> np.ndarray:
    """Return one field of view as its camera stores it, uint16 (3, H, W): DNA, actin, tubulin."""
    pixel = pixel_size(height)
    return photograph(
        rng, draw_field(rng, compound, response, shift, height, width, pixel), shift, pixel
    )


def pixel_size(height: int) -> float:
    """Return um per pixel: the microscope's own from 512 rows on, 1 below."""
    return MICROSCOPE_PIXEL if height >= 512 else 1.0


# -------------------------------------------------------------------------- writing


def conditions(seed: int, well: dict, site: int) -> np.ndarray:
    """Return the shift of a field: a little of its week and plate, mostly its own.

    A well with a ``drift`` has that much of `DRYING` in addition.
    """
    own = well["plate"], well["well"], site
    shift = sum(
        (
            weight * generator(seed, "conditions", *key).standard_normal(len(PARAMETERS))
            for weight, key in ((0.3, (well["week"],)), (0.3, (well["plate"],)), (0.9, own))
        ),
        np.zeros(len(PARAMETERS)),
    )
    if drift := well.get("drift", 0.0):
        shift += drift * np.array([DRYING.get(name, 0.0) for name in PARAMETERS])
    return shift


def field(
    seed: int, well: dict, compound: Compound, site: int, height: int = 128, width: int = 160
) -> np.ndarray:
    """Return one field of a screen, uint16 (3, H, W)."""
    rng, shift = generator(seed, well["plate"], well["well"], site), conditions(seed, well, site)
    return render_field(rng, compound, well["response"], shift, height, width)
