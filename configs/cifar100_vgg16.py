"""VGG-16 on CIFAR-100: 4x fewer parameters and 2x fewer MACs.

    TFDS_DATA_DIR=... jaxprune run configs/cifar100_vgg16.py

Time: meant for an accelerator, on which it has not run to its end yet; on two CPU cores it would
take weeks.
Result: expected are 72 to 73 % for the unpruned network.
"""

from jaxprune.budget import Budget
from jaxprune.config import DataConfig, ModelConfig, RunConfig, SensitivityConfig, StatisticsConfig
from jaxprune.search.run import SearchConfig
from jaxprune.train.loop import TrainConfig
from jaxprune.train.losses import DistillConfig
from jaxprune.train.optimizer import OptimizerConfig

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
    sensitivity=SensitivityConfig(images=1024),
    budget=Budget("params/4,macs/2"),
    statistics=StatisticsConfig(images=1000, batch_size=50),
    search=SearchConfig(population=128, generations=300),
    finetune=TrainConfig(
        epochs=100,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    distill=DistillConfig(attention=10.0),  # the last maps are 2x2: 1e3 drowns the labels
)
