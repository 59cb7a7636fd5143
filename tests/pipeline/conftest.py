"""A run that is pruned after an epoch of training, which the tests of what comes after it share."""

import warnings
from typing import Any

import pytest

from jaxprune import pipeline
from jaxprune.config import FinetuneConfig, ModelConfig, RecalibrationConfig, RunConfig
from jaxprune.train.state import TrainConfig

WIDTHS = {f"conv{i}_{j}": 8 for i in (1, 2, 3) for j in (1, 2)}


@pytest.fixture(scope="session")
def hardly_trained():
    """Opens and runs one on the digits in a folder, with the other fields of its config."""

    def run(folder: Any, **fields: Any) -> Any:
        training = TrainConfig(epochs=1, batch_size=128, crop_padding=1, flip=False)
        config = RunConfig(
            name="tiny",
            out=str(folder),
            model=ModelConfig(name="vgg_small", widths=WIDTHS),
            train=training,
            recalibration=RecalibrationConfig(images=64, batch_size=64),
            finetune=FinetuneConfig(**{**vars(training), "epochs": 0}),
            controls=(),
            **fields,
        )
        opened = pipeline.open_run(config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for stage in (pipeline.train, pipeline.prune, pipeline.finetune):
                stage(opened)
        return opened

    return run
