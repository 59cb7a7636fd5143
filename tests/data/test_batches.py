import numpy as np
import pytest

from jaxprune.data import Split, batch_indices, epoch_indices, eval_batches, steps_per_epoch


def test_an_epoch_sees_nothing_twice():
    seen = np.concatenate([batch_indices(0, step, 50, 8) for step in range(6)])
    assert len(set(seen)) == 48 and seen.min() >= 0 and seen.max() < 50


def test_a_step_depends_on_seed_and_number_alone():
    late = batch_indices(3, 13, 50, 8)
    epoch_indices.cache_clear()
    np.testing.assert_array_equal(batch_indices(3, 13, 50, 8), late)
    assert np.any(batch_indices(4, 13, 50, 8) != late)
    # The same place one epoch earlier.
    assert np.any(batch_indices(3, 7, 50, 8) != late)
    np.testing.assert_array_equal(epoch_indices(3, 2, 50, 8)[1], late)


def test_no_whole_batch():
    assert steps_per_epoch(50, 50) == 1
    with pytest.raises(ValueError, match="batch_size is 64; 50 examples"):
        batch_indices(0, 0, 50, 64)


def test_eval_batches_have_one_size_and_lose_nothing():
    images = np.arange(10 * 4, dtype=np.uint8).reshape(10, 2, 2, 1)
    split = Split(images, np.arange(10, dtype=np.int32), np.arange(10).astype(str))
    batches = list(eval_batches(split, 4))
    assert {(b.images.shape, b.labels.shape, b.valid.shape) for b in batches} == {
        ((4, 2, 2, 1), (4,), (4,))
    }
    valid = np.concatenate([b.valid for b in batches])
    np.testing.assert_array_equal(np.concatenate([b.images for b in batches])[valid], images)
    np.testing.assert_array_equal(np.concatenate([b.labels for b in batches])[valid], split.labels)
    assert valid.sum() == 10
