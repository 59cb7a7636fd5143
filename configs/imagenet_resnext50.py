"""ResNeXt-50 (32x4d) on ImageNet at half its MACs, the sums of its stages left whole.

    TFDS_DATA_DIR=... jaxprune run configs/imagenet_resnext50.py

Time: meant for an accelerator, on which it has not run to its end yet; a CPU would take
months.
Result: torchvision reports 77.62 % for the unpruned network.
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("imagenet_resnet50.py"))
config = replace(
    base,
    name="imagenet_resnext50",
    model=jp.ModelConfig(name="resnext50"),
    train=replace(
        base.train,
        epochs=100,
        optimizer=replace(base.train.optimizer, milestones=(0.3, 0.6, 0.9)),
    ),
    budget=jp.Budget("macs/2", limits={"stage*/conv3": (1, 1)}),
)
