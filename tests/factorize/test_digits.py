import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.factorize.digits import digits_of, modes_of, modes_of_window


@pytest.mark.parametrize("count", [2, 3, 4, 8])
@pytest.mark.parametrize("size", [1, 2, 7, 128, 300, 784, 4097, 50257])
def test_digits_count_far_enough_and_not_much_further(size, count):
    digits = digits_of(size, count)
    assert len(digits) == count
    assert list(digits) == sorted(digits)
    assert size <= math.prod(digits)
    if size >= 128:
        assert math.prod(digits) <= 1.2 * size
        assert sum(digits) <= 1.35 * count * size ** (1 / count)


def test_exact_factors_are_preferred():
    assert (digits_of(784, 4), digits_of(300, 4), digits_of(4096, 3)) == ((4, 4, 7, 7), (3, 4, 5, 5), (16, 16, 16))


def test_modes_of_a_matrix_by_hand():
    """Core 0 holds the high digits (i // 2, j // 3), core 1 the low ones."""
    modes = modes_of((4, 6), ((0,), (1,)), digits=((2, 2), (2, 3)))
    w = np.arange(24.0).reshape(4, 6)
    expected = np.zeros((4, 6))
    for i in range(4):
        for j in range(6):
            expected[2 * (i // 2) + j // 3, 3 * (i % 2) + j % 3] = w[i, j]
    np.testing.assert_array_equal(modes.tensor(jnp.asarray(w)[None])[0], expected)
    assert (modes.merged, modes.cut, modes.core_shapes((5,))) == ((4, 6), (None, None), [(1, 2, 2, 5), (5, 2, 3, 1)])


def test_several_axes_of_a_side_have_digits_of_their_own():
    modes = modes_of((7, 4, 8), ((0,), (1, 2)), cores=3)
    assert modes.axes == ((0, 1), (0, 2), (0, 2))
    assert modes.cut == (7, None, None)
    many = modes_of((3, 3, 4, 5, 10), ((0, 1, 2, 3), (4,)), cores=2)
    assert many.axes == ((0, 1, 4), (2, 3, 4))
    assert modes_of_window((3, 2, 4, 6), (2, 0, 1, 3)).merged == (4, 3, 2, 6)


def test_break_even_by_hand():
    """Two cores of 4 x r and r x 4 entries hold fewer than 16 at rank 1 alone."""
    modes = modes_of((4, 4), ((0,), (1,)), digits=((2, 2), (2, 2)))
    assert (modes.parameters(1), modes.parameters(2), modes.break_even()) == (8, 16, 1)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"digits \(2, 3\) of axis 0 count to 6, less than its size 7"):
        modes_of((7, 4), ((0,), (1,)), digits=((2, 3), (2, 2)))
    with pytest.raises(ValueError, match="equally many"):
        modes_of((6, 4), ((0,), (1,)), digits=((2, 3), (4,)))
    with pytest.raises(ValueError, match="cores must be from 2 to 8, got 9"):
        modes_of((6, 4), ((0,), (1,)), cores=9)
    with pytest.raises(ValueError, match="one sequence for each of 2 axes"):
        modes_of((6, 4), ((0,), (1,)), digits=((2, 3),))
