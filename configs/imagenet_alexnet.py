"""AlexNet on ImageNet: 4x fewer parameters and 2x fewer MACs.

    TFDS_DATA_DIR=... jaxprune run configs/imagenet_alexnet.py

Time: meant for an accelerator, on which it has not run to its end yet; a CPU would take
months.
Result: torchvision reports 56.52 % for the unpruned network.
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("imagenet_resnet50.py"))
config = replace(
    base,
    name="imagenet_alexnet",
    model=jp.ModelConfig(name="alexnet"),
    train=replace(base.train, optimizer=replace(base.train.optimizer, learning_rate=0.01)),
    budget=jp.Budget("params/4,macs/2"),
    finetune=replace(
        base.finetune, optimizer=replace(base.finetune.optimizer, learning_rate=0.001)
    ),
)
