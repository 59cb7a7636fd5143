import numpy as np

from jaxprune import data
from jaxprune.data.scenes import CLASSES, scenes


def test_scenes_are_drawn_the_same_each_time_and_differ_by_class_and_weather():
    clear = scenes(24, 0)
    assert clear.images.shape == (24, 32, 32, 3) and np.bincount(clear.labels).tolist() == [4] * 6
    np.testing.assert_array_equal(scenes(24, 0).images, clear.images)
    assert np.any(scenes(24, 1).images != clear.images)
    fog, urban = scenes(24, 0, "fog").images, scenes(24, 0, "urban").images

    def spread(images):
        return images.std(axis=(1, 2, 3)).mean()

    assert spread(fog) < 0.7 * spread(clear.images) and np.any(urban != clear.images)


def test_it_is_a_data_set_by_name_whose_parts_share_no_scene():
    found = data.load("scenes", heldout=60)
    assert (len(found.train), len(found.heldout), len(found.test)) == (2940, 60, 600)
    assert found.num_classes == len(CLASSES) and found.input_shape == (32, 32, 3)
    ids = np.concatenate([found.train.ids, found.heldout.ids, found.test.ids])
    assert len(set(ids)) == 3600
