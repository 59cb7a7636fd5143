"""The main job: a small VGG on scikit-learn's handwritten digits, nothing to download.

    jaxprune run configs/digits_vgg.py

Time: 97 s on 2 x86-64 CPU cores (median of 5 runs, 91 to 125 s), compilation included.
Result: 8.0x fewer parameters and 3.6x fewer MACs at 98.8 % test accuracy (mean of 5 seeds); the
unpruned network has 98.8 %, before and after the same extra training.
"""

from jaxprune.budget import Budget
from jaxprune.config import (
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    RecalibrationConfig,
    RunConfig,
)
from jaxprune.train.losses import DistillConfig
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig

config = RunConfig(
    name="digits_vgg",
    data=DataConfig(name="digits", heldout=200),
    model=ModelConfig(name="vgg_small"),
    train=TrainConfig(
        epochs=30,
        batch_size=64,
        optimizer=OptimizerConfig(learning_rate=0.05),
        crop_padding=1,
        flip=False,
    ),
    budget=Budget("params/8,macs/3"),
    recalibration=RecalibrationConfig(images=512, batch_size=128),
    finetune=FinetuneConfig(
        epochs=40,
        batch_size=64,
        optimizer=OptimizerConfig(learning_rate=0.05),
        crop_padding=1,
        flip=False,
    ),
    distill=DistillConfig(attention=100, kl=1),
)
