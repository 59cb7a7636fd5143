"""VGG-16 on SVHN: 8x fewer parameters and 3x fewer MACs, as in Hu et al. 2018.

    TFDS_DATA_DIR=... jaxprune run configs/svhn_vgg16.py

Time: meant for an accelerator, on which it has not run to its end yet; on two CPU cores it would
take weeks.
Result: expected are about 96 % for the unpruned network, which trains without the extra images;
the paper claims more for the pruned one. Digits are not mirrored.
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
    name="svhn_vgg16",
    data=DataConfig(name="svhn_cropped", heldout=5000),
    model=ModelConfig(name="vgg16"),
    train=TrainConfig(
        epochs=160,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=0.05, schedule="cosine"),
        crop_padding=4,
        flip=False,
    ),
    validation=ValidationConfig(images=1024),
    budget=Budget("params/8,macs/3"),
    calibration=CalibrationConfig(images=1000, batch_size=50),
    method=Genetic(schedule=Schedule("layerwise")),
    finetune=FinetuneConfig(
        epochs=100,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="cosine"),
        crop_padding=4,
        flip=False,
    ),
    distill=DistillConfig(attention=10.0),  # the last maps are 2x2: 1e3 drowns the labels
)
