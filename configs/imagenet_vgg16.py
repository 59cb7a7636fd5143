"""VGG-16 with BatchNorm on ImageNet at a quarter of its MACs.

    TFDS_DATA_DIR=... jaxprune run configs/imagenet_vgg16.py

Time: meant for an accelerator, on which it has not run to its end yet; a CPU would take
months.
Result: torchvision reports 73.36 % for the unpruned network.
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("imagenet_resnet50.py"))
config = replace(
    base,
    name="imagenet_vgg16",
    model=jp.ModelConfig(name="vgg16_imagenet"),
    train=replace(base.train, optimizer=replace(base.train.optimizer, learning_rate=0.01)),
    budget=jp.Budget("macs/4"),
    finetune=replace(
        base.finetune, optimizer=replace(base.finetune.optimizer, learning_rate=0.001)
    ),
)
