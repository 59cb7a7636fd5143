"""ResNet-20 on CIFAR-10 at half its MACs, the sums of its stages left whole.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_resnet20.py

Time: meant for an accelerator, on which it has not run to its end yet; on two CPU cores it would
take days.
Result: He et al. 2015 report 91.25 % for the unpruned network.
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
    name="cifar10_resnet20",
    data=DataConfig(name="cifar10", heldout=5000),
    model=ModelConfig(name="resnet20"),
    train=TrainConfig(
        epochs=182,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=0.1, weight_decay=1e-4, schedule="step"),
        crop_padding=4,
        flip=True,
    ),
    validation=ValidationConfig(images=1024),
    budget=Budget("macs/2"),
    calibration=CalibrationConfig(images=1000, batch_size=50),
    method=Genetic(schedule=Schedule("layerwise")),
    finetune=FinetuneConfig(
        epochs=100,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=1e-4, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    distill=DistillConfig(attention=1e3),
)
