"""WRN-28-10 on CIFAR-10 at a third of its MACs, the sums of its stages left whole.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_wrn28_10.py

Time: meant for an accelerator, on which it has not run to its end yet; on two CPU cores it would
take months.
Result: Zagoruyko and Komodakis 2016 report 96.0 % for the unpruned network.
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
    name="cifar10_wrn28_10",
    data=DataConfig(name="cifar10", heldout=5000),
    model=ModelConfig(name="wrn28_10"),
    train=TrainConfig(
        epochs=200,
        batch_size=128,
        optimizer=OptimizerConfig(
            learning_rate=0.1,
            weight_decay=5e-4,
            schedule="step",
            milestones=(0.3, 0.6, 0.8),
            gamma=0.2,
        ),
        crop_padding=4,
        flip=True,
    ),
    validation=ValidationConfig(images=1024),
    budget=Budget("macs/3"),
    calibration=CalibrationConfig(images=1000, batch_size=50),
    method=Genetic(schedule=Schedule("layerwise")),
    finetune=FinetuneConfig(
        epochs=100,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    distill=DistillConfig(attention=1e3),
)
