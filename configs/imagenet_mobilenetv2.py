"""MobileNetV2 on ImageNet at 70 % of its MACs, its linear bottlenecks left whole.

    TFDS_DATA_DIR=... jaxprune run configs/imagenet_mobilenetv2.py

Time: meant for an accelerator, on which it has not run to its end yet; a CPU would take
months.
Result: Sandler et al. 2018 report 72.0 % for the unpruned network, by a longer recipe.
"""

from jaxprune.budget import Budget
from jaxprune.config import (
    DataConfig,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
    SensitivityConfig,
    StatisticsConfig,
)
from jaxprune.search.run import SearchConfig
from jaxprune.train.loop import TrainConfig
from jaxprune.train.losses import DistillConfig
from jaxprune.train.optimizer import OptimizerConfig

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
    sensitivity=SensitivityConfig(images=1024),
    budget=Budget("macs/1.43", limits={"stage*/project_conv": (1, 1)}),
    statistics=StatisticsConfig(images=1000, batch_size=50),
    search=SearchConfig(population=128, generations=300),
    schedule=ScheduleConfig(name="joint"),  # rounds would cost an epoch for each of its groups
    finetune=TrainConfig(
        epochs=50,
        batch_size=256,
        optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=4e-5, schedule="cosine"),
        crop_padding=0,
        flip=True,
        precision="bfloat16",
    ),
    distill=DistillConfig(attention=1e3),
)
