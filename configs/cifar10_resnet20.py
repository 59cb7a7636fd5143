"""ResNet-20 on CIFAR-10 at half its MACs, the sums of its stages left whole.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_resnet20.py

Time: meant for an accelerator, on which it has not run to its end yet; on two CPU cores it would
take days.
Result: He et al. 2015 report 91.25 % for the unpruned network.
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("cifar10_resnet56.py"))
config = replace(
    base,
    name="cifar10_resnet20",
    model=jp.ModelConfig(name="resnet20"),
    validation=jp.ValidationConfig(images=1024),
)
