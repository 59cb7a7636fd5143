"""MobileNetV2 on ImageNet at 70 % of its MACs, its linear bottlenecks left whole.

    TFDS_DATA_DIR=... jaxprune run configs/imagenet_mobilenetv2.py

Time: meant for an accelerator, on which it has not run to its end yet; a CPU would take
months.
Result: Sandler et al. 2018 report 72.0 % for the unpruned network, by a longer recipe.
"""

from jaxprune.budget import Budget
from jaxprune.config import (
    CalibrationConfig,
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    RunConfig,
    ValidationConfig,
)
from jaxprune.train.losses import DistillConfig
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig

config = RunConfig(
    name="imagenet_mobilenetv2",
    data=DataConfig(name="imagenet2012", image_size=224, heldout=10000),
    model=ModelConfig(name="mobilenetv2"),
    train=TrainConfig(
        epochs=150,
        batch_size=256,
        optimizer=OptimizerConfig(learning_rate=0.05, weight_decay=4e-5, schedule="cosine"),
        crop_padding=0,
        flip=True,
        precision="bfloat16",
    ),
    groups="all",
    validation=ValidationConfig(images=1024),
    budget=Budget("macs/1.43", limits={"stage*/project_conv": (1, 1)}),
    calibration=CalibrationConfig(images=1000, batch_size=50),
    finetune=FinetuneConfig(
        epochs=50,
        batch_size=256,
        optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=4e-5, schedule="cosine"),
        crop_padding=0,
        flip=True,
        precision="bfloat16",
    ),
    distill=DistillConfig(attention=1e3),
)
