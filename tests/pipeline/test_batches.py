import jax
import numpy as np
import pytest

from jaxcompress.pipeline.batches import ArrayBatches, CalledBatches, batches_of


def test_every_epoch_takes_each_example_at_most_once_in_a_new_order():
    batches = ArrayBatches((np.arange(10),), batch_size=3, key=jax.random.key(0))
    epochs = np.stack([batches.pick(step) for step in range(6)]).reshape(2, 9)
    assert all(len(set(epoch.tolist())) == 9 for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_a_batch_depends_on_its_step_alone():
    first = ArrayBatches(np.arange(10), batch_size=3, key=jax.random.key(0))
    second = ArrayBatches(np.arange(10), batch_size=3, key=jax.random.key(0))
    assert np.array_equal([first.pick(step) for step in range(7)][4], second.pick(4))


def test_a_batch_larger_than_the_data_is_all_of_it():
    batches = ArrayBatches(np.arange(4), batch_size=100, key=jax.random.key(0))
    assert sorted(batches.pick(5).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("data", [{}, (np.ones(3), np.ones(4)), np.ones((0, 2)), np.float32(1)])
def test_data_without_a_common_axis_is_refused(data):
    with pytest.raises(ValueError, match="one common leading axis"):
        batches_of(data, batch_size=2, key=jax.random.key(0))


def test_a_function_is_asked_for_each_step():
    batches = batches_of(lambda step: {"x": np.full(2, step)}, batch_size=7, key=jax.random.key(0))
    assert isinstance(batches, CalledBatches)
    assert batches.take(batches.arrays, batches.pick(3))["x"].tolist() == [3, 3]
