"""VGG-16 on SVHN: 8x fewer parameters and 3x fewer MACs, as in Hu et al. 2018.

    TFDS_DATA_DIR=... jaxprune run configs/svhn_vgg16.py

Time: meant for an accelerator, on which it has not run to its end yet; on two CPU cores it would
take weeks.
Result: expected are about 96 % for the unpruned network, which trains without the extra images;
the paper claims more for the pruned one. Digits are not mirrored.
"""

from jaxprune.budget import Budget
from jaxprune.config import DataConfig, ModelConfig, RunConfig, SensitivityConfig, StatisticsConfig
from jaxprune.search.run import SearchConfig
from jaxprune.train.loop import TrainConfig
from jaxprune.train.losses import DistillConfig
from jaxprune.train.optimizer import OptimizerConfig

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
    sensitivity=SensitivityConfig(images=1024),
    budget=Budget("params/8,macs/3"),
    statistics=StatisticsConfig(images=1000, batch_size=50),
    search=SearchConfig(population=128, generations=300),
    finetune=TrainConfig(
        epochs=100,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="cosine"),
        crop_padding=4,
        flip=False,
    ),
    distill=DistillConfig(attention=10.0),  # the last maps are 2x2: 1e3 drowns the labels
)
