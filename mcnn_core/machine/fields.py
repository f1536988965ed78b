"""The pixels of a store as the device that trains reads them."""

import math

import numpy as np
import torch

from mcnn_core.machine.device import device, pinned

FREE_SHARE = 0.6  #: of a GPU's free memory that pixels may take; the rest is for activations


class Fields:
    """The 8-bit fields of a store, to take views of.

    On a GPU the fields to train on stay resident where they fit; where they do not, and on a CPU,
    only the pixels of a view are read, from the memory-mapped store. Both give the same bytes.

    Parameters
    ----------
    pixels : (n, H, W, C) uint8 array
        Usually memory-mapped.
    rows : (k,) int array, optional
        Rows that will be asked for again and again; without them nothing is kept on the device.
    """

    def __init__(self, pixels: np.ndarray, rows: np.ndarray | None = None):
        self.pixels, self.resident = pixels, None
        if rows is None or device().type == "cpu":
            return
        shape = (len(rows), *pixels.shape[1:])
        if math.prod(shape) > FREE_SHARE * torch.cuda.mem_get_info()[0]:
            return
        self.slots = np.zeros(len(pixels), np.int64)
        self.slots[rows] = np.arange(len(rows))
        self.resident = torch.empty(shape, dtype=torch.uint8, device=device())
        for start in range(0, len(rows), 64):
            part = np.stack([pixels[row] for row in rows[start : start + 64]])
            self.resident[start : start + len(part)].copy_(torch.from_numpy(part))

    def views(
        self, rows: np.ndarray, size: tuple[int, int], corners: np.ndarray, turns: np.ndarray
    ) -> torch.Tensor:
        """Return a crop of each of n rows, turned: (n, h, w, C) uint8 tensor.

        Resident ones are on the device, others pinned for it.

        Parameters
        ----------
        rows : (n,) int array
        size : (h, w)
        corners : (n, 2) int array
            Top and left of each crop.
        turns : (n, 3) int array, 0 or 1
            Flip vertically, flip horizontally, transpose.
        """
        if self.resident is not None:
            return self._gather(self.resident, rows, size, corners, turns)
        fields = []
        for row, (top, left), (down, across, diagonal) in zip(rows, corners, turns, strict=True):
            field = self.pixels[row][top : top + size[0], left : left + size[1]]
            field = field[:: -1 if down else 1, :: -1 if across else 1]
            fields.append(field.transpose(1, 0, 2) if diagonal else field)
        return pinned(np.stack(fields))

    def _gather(
        self,
        resident: torch.Tensor,
        rows: np.ndarray,
        size: tuple[int, int],
        corners: np.ndarray,
        turns: np.ndarray,
    ) -> torch.Tensor:
        """Cut views out of the resident fields, all at once."""
        places = [
            first[:, None] + np.where(flip[:, None], np.arange(side)[::-1], np.arange(side))
            for first, flip, side in zip(corners.T, turns[:, :2].T, size, strict=True)
        ]  # rows and columns within each field
        at, y, x = (
            torch.from_numpy(place).to(resident.device) for place in (self.slots[rows], *places)
        )
        fields = resident[at[:, None, None], y[:, :, None], x[:, None, :]]
        diagonal = np.flatnonzero(turns[:, 2])
        if len(diagonal):
            fields[diagonal] = fields[diagonal].transpose(1, 2)
        return fields
