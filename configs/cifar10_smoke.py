"""Every stage on real CIFAR-10 images in a few steps: shows that a machine is set up.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_smoke.py

Time: about a minute on 2 x86-64 CPU cores.
Result: a summary whose accuracies mean nothing, at 4x fewer parameters and 2x fewer MACs.
"""

from jaxprune.budget import Budget
from jaxprune.config import (
    CalibrationConfig,
    DataConfig,
    EvaluationConfig,
    FinetuneConfig,
    ModelConfig,
    RecalibrationConfig,
    RunConfig,
    ValidationConfig,
)
from jaxprune.methods import Genetic
from jaxprune.search.run import SearchConfig
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig

config = RunConfig(
    name="cifar10_smoke",
    data=DataConfig(name="cifar10", heldout=500),
    model=ModelConfig(
        name="vgg_small", widths={"conv1_1": 16, "conv1_2": 16, "conv2_1": 32, "conv2_2": 32}
    ),
    train=TrainConfig(epochs=0.02, batch_size=64, optimizer=OptimizerConfig(learning_rate=0.02)),
    validation=ValidationConfig(images=100, batch_size=100),
    budget=Budget("params/4,macs/2"),
    calibration=CalibrationConfig(images=64, batch_size=32),
    method=Genetic(SearchConfig(population=32, generations=20), kept=(0.25, 0.5, 0.75)),
    recalibration=RecalibrationConfig(images=128, batch_size=64),
    finetune=FinetuneConfig(
        epochs=0.01, batch_size=64, optimizer=OptimizerConfig(learning_rate=0.01)
    ),
    evaluation=EvaluationConfig(images=500, batch_size=250, latency_repeats=3),
)
