import numpy as np
from scipy.ndimage import gaussian_filter

from mcnn_book import pictures

RNG = np.random.default_rng(0)
SHARP = RNG.integers(0, 256, (8, 32, 40, 2)).astype(float)
SHARP = gaussian_filter(SHARP, (0, 1, 1, 0))
BLURRED = gaussian_filter(SHARP, (0, 3, 3, 0))


def as_bytes(fields):
    """Return fields whose channels all have the same mean and spread, whatever their focus."""
    fields = fields - fields.mean(axis=(1, 2), keepdims=True)
    return (128 + 30 * fields / fields.std(axis=(1, 2), keepdims=True)).clip(0, 255).astype("u1")


PIXELS = as_bytes(np.concatenate([BLURRED[:4], SHARP[4:]]))


def test_sharp_fields_come_first_and_among_them_the_usual():
    features = np.arange(8.0)[:, None]
    features[6] = 3.6  # next to the median of all
    order = pictures.clear_rows(PIXELS, range(8), features)
    assert set(order[:4]) == {4, 5, 6, 7} and order[0] == 6
    assert set(pictures.clear_rows(PIXELS, [1, 5])) == {1, 5}
    assert not len(pictures.clear_rows(PIXELS, []))
    many = pictures.clear_rows(PIXELS[RNG.integers(0, 8, 200)], range(200))
    assert len(many) == len(set(many)) == pictures.LOOKED_AT


def test_small_fields_are_joined_and_large_ones_cut():
    (one,) = pictures.of(PIXELS, [range(8)])
    assert one.shape == (66, 82, 2) and (one[32:34] == 255).all() and (one[:, 40:42] == 255).all()
    (few,) = pictures.of(PIXELS, [[5]])
    assert (few[:32, :40] == PIXELS[5]).all() and (few[34:] == 255).all()
    large = RNG.integers(0, 256, (1, 300, 400, 3), dtype=np.uint8)
    assert (pictures.picture(large) == large[0, 22:278, 40:360]).all()
    middle = RNG.integers(0, 256, (1, 200, 300, 3), dtype=np.uint8)
    assert (pictures.picture(middle) == middle[0]).all()


def test_channels_lie_below_each_other_stretched_alike():
    dim, bright = np.full((8, 10, 2), 20, np.uint8), np.full((8, 10, 2), 120, np.uint8)
    dim[..., 1], bright[..., 1] = 10, 240
    low, high = pictures.in_grey([dim, bright])
    assert low.shape == high.shape == (20, 10, 1)
    assert (low[:8] == 0).all() and (high[:8] == 255).all() and (low[8:12] == 255).all()
    assert pictures.in_grey([]) == []
