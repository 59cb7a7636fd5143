"""VGG-16 on CIFAR-10: the headline of Hu et al. 2018, 8x fewer parameters and 3x fewer MACs.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16.py

Weights of the same network that was trained in PyTorch stand in place of the training, with the ids
of the images that it has not seen:

    jaxprune run configs/cifar10_vgg16.py --model.weights FILE.safetensors --data.heldout IDS.txt

Time: meant for an accelerator, on which it has not run to its end yet; on two CPU cores it would
take weeks. configs/cifar10_smoke.py shows within minutes that a machine is set up.
Result: expected are 93 to 94 % for the unpruned network; the paper claims more for the pruned one.
"""

from jaxprune.budget import Budget
from jaxprune.config import DataConfig, ModelConfig, RunConfig, SensitivityConfig, StatisticsConfig
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
    sensitivity=SensitivityConfig(images=1000),
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
    distill=DistillConfig(attention=10.0),  # the last maps are 2x2: 1e3 drowns the labels
)
