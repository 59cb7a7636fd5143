"""The VGG-16 that was trained on CIFAR-10 in PyTorch, where it lies beside the project."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

import jaxprune as jp
from jaxprune.data.augment import normalize
from jaxprune.data.split import Split
from jaxprune.train.evaluate import correct

SHARED = Path(__file__).parents[2].parent / "shared"
CHECKPOINTS = SHARED / "checkpoints"
IMAGES = Path(os.environ.get("TFDS_DATA_DIR") or SHARED / "tfds")
MODULE = jp.models.build("vgg16", num_classes=10, input_shape=(32, 32, 3))
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

pytestmark = pytest.mark.skipif(
    not (CHECKPOINTS / "vgg16_bn_cifar10.safetensors").exists(),
    reason=f"needs the checkpoint in {CHECKPOINTS}",
)


@pytest.fixture(scope="module")
def variables():
    return jp.interop.from_torch(CHECKPOINTS / "vgg16_bn_cifar10.safetensors", MODULE)


def test_its_logits_are_those_of_pytorch(variables):
    reference = np.load(CHECKPOINTS / "reference.npz")
    images = normalize(reference["images"], mean=MEAN, std=STD)
    for forward in (MODULE.apply, jp.accelerate(MODULE.apply)):
        logits = jax.jit(forward)(variables, images)
        np.testing.assert_allclose(logits, reference["logits"], rtol=0, atol=1e-3)


@pytest.mark.skipif(not (IMAGES / "cifar10").exists(), reason=f"needs CIFAR-10 in {IMAGES}")
def test_its_test_accuracy_is_the_one_that_is_stated(variables):
    examples = tfds.data_source("cifar10", split="test", data_dir=IMAGES, download=False)
    images, labels, ids = zip(*((e["image"], e["label"], e["id"]) for e in examples), strict=True)
    test = Split(np.stack(images), np.array(labels, np.int32), np.array(ids))
    network = jp.models.network(MODULE)
    found = correct(network, variables, test, batch_size=500, mean=MEAN, std=STD).mean()
    assert found == pytest.approx(0.8792, abs=0.0005)
