r"""VGG-16 on six classes of CIFAR-10: the other four are outliers for supervisors.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_left_out.py
    TFDS_DATA_DIR=... jaxprune supervise runs/cifar10_left_out

Deer, dog, frog and horse are left out. Fashion-MNIST, where TFDS_DATA_DIR has it, and the
corruptions of the test images are outliers as well.

Time: meant for an accelerator, on which it has not run; 200 epochs and 100 of fine-tuning.
Result: none yet.
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("cifar10_vgg16.py"))
config = replace(
    base,
    name="cifar10_left_out",
    data=replace(base.data, left_out=(4, 5, 6, 7)),
    controls=(),
)
