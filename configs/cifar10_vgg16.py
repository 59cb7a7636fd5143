"""VGG-16 on CIFAR-10: the headline of Hu et al. 2018, 8x fewer parameters and 3x fewer MACs.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16.py

Time: to be measured on one accelerator; on a CPU this is days, use configs/cifar10_smoke.py there.
Result: to be measured. The paper claims an accuracy above the unpruned network's; a VGG-16 trained
like this one reaches 93 to 94 %.
"""

from jaxprune.budget import Budget
from jaxprune.config import DataConfig, ModelConfig, RunConfig, StatisticsConfig
from jaxprune.search.run import SearchConfig
from jaxprune.train.loop import TrainConfig
from jaxprune.train.losses import DistillConfig
from jaxprune.train.optimizer import OptimizerConfig

config = RunConfig(
    name="cifar10_vgg16",
    data=DataConfig(name="cifar10", heldout=5000),
    model=ModelConfig(name="vgg16"),
    train=TrainConfig(
        epochs=200,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=0.1, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    budget=Budget("params/8,macs/3"),
    statistics=StatisticsConfig(images=1000, batch_size=50),
    search=SearchConfig(population=128, generations=300),
    finetune=TrainConfig(
        epochs=100,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    distill=DistillConfig(attention=1e3),
)
