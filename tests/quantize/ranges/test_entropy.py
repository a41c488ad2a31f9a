"""The KL search against a slow one in NumPy, float64, loop by loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.formats import format_of
from jaxcompress.quantize.ranges import Entropy, find_scaling
from jaxcompress.quantize.ranges.base import Samples, fit
from jaxcompress.quantize.ranges.entropy import Histogram


def divergence(counts, first, last, codes, smoothing):
    """``KL(P || Q)`` of the bins ``first .. last``, both included, whose codes are given."""
    whole = counts.sum()
    p = [c / whole for c in counts[first : last + 1]]
    kept = list(p)
    p[0] += counts[:first].sum() / whole
    p[-1] += counts[last + 1 :].sum() / whole
    q = [0.0] * len(p)
    for code in set(codes):
        members = [i for i, c in enumerate(codes) if c == code and p[i] > 0]
        for i in members:
            q[i] = sum(kept[j] for j, c in enumerate(codes) if c == code) / len(members)
    filled, mass = sum(value > 0 for value in p), sum(q)
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += a * np.log(a / ((1 - smoothing) * b / mass + smoothing / filled))
    return total


def symmetric_search(counts, bits, steps, smoothing):
    """All candidates' divergences by their end in bins, widest first."""
    half, top = len(counts) // 2, 2 ** (bits - 1) - 1
    used = np.flatnonzero(counts)
    reach = max(half - used[0], used[-1] + 1 - half)
    least = min(2**bits / (2 * reach), 1)
    found = {}
    for step in range(steps, 0, -1):
        end = round(reach * (least + (1 - least) * step / steps))
        centres = np.arange(-end, end) + 0.5
        codes = np.clip(np.round(centres / (end / top)), -top, top)
        found[end] = divergence(counts, half - end, half + end - 1, codes.tolist(), smoothing)
    return found


def histogram(values, bins=512, reach=None):
    reach = np.abs(values).max() if reach is None else reach
    counts, _ = np.histogram(values, bins, (-reach, reach))
    width = 2 * reach / bins
    centres = (np.arange(bins) + 0.5 - bins // 2) * width
    return counts.astype(np.float64), width, centres


RNG = np.random.default_rng(0)
DATA = {
    "normal": RNG.standard_normal(5000),
    "outliers": np.concatenate([RNG.standard_normal(5000), [30.0, -25.0, 28.0]]),
    "one sided": np.maximum(RNG.standard_normal(5000), 0) * 3,
    "laplace": RNG.laplace(size=5000),
}


def test_symmetric_search_against_loops():
    bits, option, format = 4, Entropy(steps=32), format_of("int", 4)
    rows = [histogram(values) for values in DATA.values()]
    counts, width, centres = (np.stack(part) for part in zip(*rows, strict=True))
    samples = Samples(*(jnp.asarray(part, jnp.float32) for part in (centres, counts, width)))
    scale = np.asarray(fit(samples, format=format, range=option).scale)
    for row, (count, w, s) in enumerate(zip(counts, width, scale, strict=True)):
        reference = symmetric_search(count, bits, 32, option.smoothing)
        chosen = round(s * 7 / w)
        assert chosen in reference
        # The same one, unless float32 cannot tell two apart (round-off of a sum of 512 terms below 1).
        assert reference[chosen] <= min(reference.values()) + 1e-6, list(DATA)[row]
    assert scale[1] * 7 < 10  # three outliers among five thousand are not worth the range


divergence_of = jax.jit(Entropy.divergence, static_argnums=(0, 4))


def test_divergence_by_hand():
    """Four bins of 4, 2, 1 and 1 entries above zero, and two bits."""
    share = jnp.array([[0, 0, 0, 0, 4, 2, 1, 1]], jnp.float32) / 8
    option, format = Entropy(smoothing=1e-9), format_of("int", 2)

    def of(end):
        end = jnp.array([end], jnp.float32)
        return float(divergence_of(option, Histogram(share, jnp.ones(1)), -end, end, format)[0])

    # Up to 4 at scale 4: .5 and 1.5 become 0, 2.5 and 3.5 become 4: P = (4 2 1 1)/8 against Q = (3 3 1 1)/8.
    assert of(4.0) == pytest.approx(0.5 * np.log(4 / 3) + 0.25 * np.log(2 / 3), abs=1e-6)
    # Up to 2 at scale 2: .5 becomes 0, 1.5 becomes 2; two entries are clipped into the edge: (4 4)/8 against (4 2)/6.
    assert of(2.0) == pytest.approx(0.5 * np.log(3 / 4) + 0.5 * np.log(3 / 2), abs=1e-6)


def test_a_clipped_edge_without_mass_of_its_own_is_dear_but_finite():
    share = jnp.array([[0, 0, 0, 0, 6, 1, 0, 1]], jnp.float32) / 8
    end = jnp.array([3.0])
    found = divergence_of(Entropy(smoothing=1e-4), Histogram(share, jnp.ones(1)), -end, end, format_of("int", 3))
    # At scale 1, 2.5 rounds to 2 as 1.5 does: P = (6 1 1)/8 and Q = (6 .5 .5)/7, of a mass of 7/8, smoothed.
    q = (1 - 1e-4) * np.array([6, 0.5, 0.5]) / 7 + 1e-4 / 3
    p = np.array([6, 1, 1]) / 8
    assert float(found[0]) == pytest.approx(np.sum(p * np.log(p / q)), abs=1e-6)
    four = divergence_of(Entropy(smoothing=1e-4), Histogram(share, jnp.ones(1)), -end, end, format_of("int", 4))
    q = (1 - 1e-4) * np.array([6, 1, 0]) / 7 + 1e-4 / 3  # a code of its own, which no entry within the range takes
    assert float(four[0]) == pytest.approx(np.sum(p * np.log(p / q)), abs=1e-6)


def test_asymmetric_ends_move_independently():
    values = np.concatenate([np.abs(RNG.standard_normal(20000)), [-40.0]])
    low_only = find_scaling(jnp.asarray(values, jnp.float32), (1,), format_of("int", 4, symmetric=False), "entropy")
    scale, zero = float(low_only.scale[0]), int(low_only.zero_point[0])
    low, high = (-8 - zero) * scale, (7 - zero) * scale
    assert -6 < low <= 0
    assert 1.5 < high < 5


def test_uniform_data_are_not_clipped():
    values = np.linspace(-1, 1, 20001)
    scale = find_scaling(jnp.asarray(values, jnp.float32), (1,), format_of("int", 4), "entropy").scale
    assert float(scale[0]) * 7 > 0.95


def test_bad_options():
    with pytest.raises(ValueError, match="bins must be even"):
        Entropy(bins=3)
    with pytest.raises(ValueError, match="smoothing must lie between 0 and 1, got 0"):
        Entropy(smoothing=0)
    with pytest.raises(ValueError, match="steps and sides must be 2 or more, got 1 and 16"):
        Entropy(steps=1)
