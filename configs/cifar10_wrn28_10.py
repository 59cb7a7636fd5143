"""WRN-28-10 on CIFAR-10 at a third of its MACs, the sums of its stages left whole.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_wrn28_10.py

Time: meant for an accelerator, on which it has not run to its end yet; on two CPU cores it would
take months.
Result: Zagoruyko and Komodakis 2016 report 96.0 % for the unpruned network.
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("cifar10_resnet56.py"))
config = replace(
    base,
    name="cifar10_wrn28_10",
    model=jp.ModelConfig(name="wrn28_10"),
    train=replace(
        base.train,
        epochs=200,
        optimizer=jp.OptimizerConfig(
            learning_rate=0.1,
            weight_decay=5e-4,
            schedule="step",
            milestones=(0.3, 0.6, 0.8),
            gamma=0.2,
        ),
    ),
    validation=jp.ValidationConfig(images=1024),
    budget=jp.Budget("macs/3", groups="inner"),
    finetune=replace(
        base.finetune, optimizer=jp.OptimizerConfig(learning_rate=0.01, schedule="cosine")
    ),
)
