"""VGG-16 on CIFAR-100: 4x fewer parameters and 2x fewer MACs.

    TFDS_DATA_DIR=... jaxprune run configs/cifar100_vgg16.py

Time: meant for an accelerator, on which it has not run to its end yet; on two CPU cores it would
take weeks.
Result: expected are 72 to 73 % for the unpruned network.
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
from jaxprune.methods import Genetic
from jaxprune.methods.rounds import Schedule
from jaxprune.train.losses import DistillConfig
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig

config = RunConfig(
    name="cifar100_vgg16",
    data=DataConfig(name="cifar100", heldout=5000),
    model=ModelConfig(name="vgg16"),
    train=TrainConfig(
        epochs=200,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=0.1, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    validation=ValidationConfig(images=1024),
    budget=Budget("params/4,macs/2"),
    calibration=CalibrationConfig(images=1000, batch_size=50),
    method=Genetic(schedule=Schedule("layerwise")),
    finetune=FinetuneConfig(
        epochs=100,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    distill=DistillConfig(attention=10.0),  # the last maps are 2x2: 1e3 drowns the labels
)
