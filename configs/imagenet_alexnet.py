"""AlexNet on ImageNet: 4x fewer parameters and 2x fewer MACs.

    TFDS_DATA_DIR=... jaxprune run configs/imagenet_alexnet.py

Time: meant for an accelerator, on which it has not run to its end yet; a CPU would take
months.
Result: torchvision reports 56.52 % for the unpruned network.
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
    name="imagenet_alexnet",
    data=DataConfig(name="imagenet2012", image_size=224, heldout=10000),
    model=ModelConfig(name="alexnet"),
    train=TrainConfig(
        epochs=90,
        batch_size=256,
        optimizer=OptimizerConfig(
            learning_rate=0.01, weight_decay=1e-4, schedule="step", milestones=(1 / 3, 2 / 3)
        ),
        crop_padding=0,
        flip=True,
        precision="bfloat16",
    ),
    validation=ValidationConfig(images=1024),
    budget=Budget("params/4,macs/2"),
    calibration=CalibrationConfig(images=1000, batch_size=50),
    finetune=FinetuneConfig(
        epochs=30,
        batch_size=256,
        optimizer=OptimizerConfig(learning_rate=0.001, weight_decay=1e-4, schedule="cosine"),
        crop_padding=0,
        flip=True,
        precision="bfloat16",
    ),
    distill=DistillConfig(attention=1e3),
)
