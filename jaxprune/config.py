"""The configuration of a run: frozen dataclasses, all of whose fields the command line can set.

A file in `configs/` defines `config = RunConfig(...)`. The text under each field is what `--help`
shows, a sentence a line. Checks that need one field alone are made when a config is built; the
names of data sets, models and methods are checked by their rooms.
"""

from __future__ import annotations

import dataclasses
import math
import os
import runpy
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxprune.budget import Budget
from jaxprune.files import plain, read_json, write_json
from jaxprune.mesh import MeshConfig
from jaxprune.methods import Genetic, Method, get, name_of
from jaxprune.methods.sparse_training import SparsityConfig
from jaxprune.train.losses import DistillConfig
from jaxprune.train.state import TrainConfig

Control = Literal["finetuned", "plain", "scratch", "scratch_distilled", "l1", "l1_uniform"]
"""What a pruned network can be held against; see `jaxprune.pipeline.controls`."""


@dataclass(frozen=True)
class DataConfig:
    """The data set, and the part of its training images that is held out for choosing."""

    name: str = "digits"
    """`digits` (embedded), `scenes` (drawn), or images from TFDS: `cifar10`, `imagenet2012`, …"""
    data_dir: str | None = None
    """Where TFDS keeps its data; TFDS_DATA_DIR of the environment where this is not given."""
    heldout: int | str = 200
    """How many training images, balanced over the classes, are held out for choosing.
    Or the path of a file with their ids, one a line."""
    heldout_seed: int = 0
    """Which images are held out; not the run's seed, so that runs compare."""
    image_size: int | None = None
    """Side of the square crops of a data set whose images differ in size: 224 for ImageNet.
    The images then stay on disk, and those held out are not balanced over the classes."""
    workers: int = 16
    """Threads that decode the images which stay on disk; the result does not depend on it."""
    left_out: tuple[int, ...] = ()
    """Classes that no part of the data has: outliers for `jaxprune supervise`."""
    shape: tuple[int, int, int] | None = None
    """Height, width and channels to which images in memory are brought.
    Grey ones become equal channels: for a network that was trained on other images."""

    def __post_init__(self):
        if isinstance(self.heldout, int):
            _at_least("data.heldout", self.heldout, 1)
        _at_least("data.image_size", self.image_size, 1)
        _at_least("data.workers", self.workers, 1)


@dataclass(frozen=True)
class ModelConfig:
    """The network that is trained and pruned."""

    name: str = "vgg_small"
    """Small images: `mlp`, `vgg_small`, `vgg16`, `vgg19`, `resnet20`, `resnet56`, `resnet110`,
    `wrn28_10`.
    ImageNet: `vgg16_imagenet`, `resnet50`, `resnext50`, `mobilenetv2`, `regnetx_400mf`, …"""
    widths: dict[str, int] = field(default_factory=dict)
    """Channels of single layers by name, where they are not the usual ones: `conv1_1 24`."""
    shortcut: Literal["A", "B"] | None = None
    """Shortcut of a CIFAR ResNet where it widens: A pads with zeros, B is a 1x1 convolution."""
    dropout: float | None = None
    """Dropout rate before the linear layers of an ImageNet VGG, AlexNet or MobileNetV2."""
    weights: str | None = None
    """A file of PyTorch weights (`.safetensors`) of a VGG or ResNet that is trained already.
    They stand in place of the training, so that nothing of `train` is used."""
    start: str | None = None
    """Such a file that the training starts from, in place of random weights: it trains on."""
    weights_epochs: float | None = None
    """For how many epochs the network of either file was trained.
    The controls from random weights are trained for as many."""

    def __post_init__(self):
        if self.weights is not None and self.start is not None:
            raise ValueError(
                "model.weights stands in place of the training and model.start begins one; "
                "leave one of them out"
            )

    def options(self) -> dict[str, Any]:
        """What `jaxprune.models.build` gets beside name and shapes: the options that are set."""
        options = {"shortcut": self.shortcut, "dropout": self.dropout}
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True)
class CalibrationConfig:
    """The images that methods measure a network with, drawn from the training part by the seed."""

    images: int = 512
    """How many images."""
    batch_size: int = 64
    """Images a batch; a smaller one needs less memory. A rest that fills none is left out."""

    def __post_init__(self):
        _at_least("calibration.images", self.images, 1)
        _at_least("calibration.batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class ValidationConfig:
    """The held-out images that methods choose by: sensitivity, rewards, accuracy floors."""

    images: int | None = None
    """How many held-out images are used; all of them where this is not given."""
    batch_size: int = 256
    """Images a batch; a rest of the images that fills none is left out."""

    def __post_init__(self):
        _at_least("validation.images", self.images, 1)
        _at_least("validation.batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """The training of what is left of the network."""

    start: Literal["kept", "fresh"] = "kept"
    """The weights that it begins with: those that were kept, or fresh ones at the same widths."""

    def __post_init__(self):
        super().__post_init__()
        _one_of("finetune.start", self.start, ("kept", "fresh"))


@dataclass(frozen=True)
class RecalibrationConfig:
    """BatchNorm statistics taken anew after channels were cut."""

    images: int = 1000
    """Training images that they are taken from."""
    batch_size: int = 100
    """Images a batch."""

    def __post_init__(self):
        _at_least("recalibration.images", self.images, 1)
        _at_least("recalibration.batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class EvaluationConfig:
    """Accuracy on the test part, and latency."""

    images: int | None = None
    """How many test images are used; all of them where this is not given."""
    batch_size: int = 500
    """Images a batch when accuracy is measured."""
    latency_batch: int = 64
    """Images a batch when latency is measured."""
    latency_repeats: int = 20
    """Timed calls; the median counts."""

    def __post_init__(self):
        _at_least("evaluation.images", self.images, 1)
        _at_least("evaluation.batch_size", self.batch_size, 1)
        _at_least("evaluation.latency_batch", self.latency_batch, 1)
        _at_least("evaluation.latency_repeats", self.latency_repeats, 1)


@dataclass(frozen=True)
class RunConfig:
    """A run: train a network, prune it to a budget, fine-tune what is left of it."""

    name: str = "run"
    """What the run is called."""
    out: str | None = None
    """The run folder; `runs/NAME` where this is not given."""
    seed: int = 0
    """Weights, order of the data, calibration images and search all follow from it."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training of the unpruned network."""
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    """A sparsity penalty in that training, which drives unimportant channels towards zero."""
    protect: tuple[str, ...] = ()
    """Patterns of layers or variables whose channels stay: `conv1_1`, `stage3`, `*/kernel`."""
    budget: Budget = field(default_factory=lambda: Budget("params/8,macs/3"))
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    method: Method = field(default_factory=Genetic)
    """What chooses the channels. `--method NAME` picks another one of `jaxprune.methods`."""
    recalibration: RecalibrationConfig = field(default_factory=RecalibrationConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    """The training of the pruned network, and of its controls."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    controls: tuple[Control, ...] = ("finetuned",)
    """Networks that the pruned one is held against, each trained as long as it.
    `finetuned`: the unpruned one with the same distillation.
    `plain`: the unpruned one without a teacher.
    `scratch`: random weights at the pruned widths, also for the epochs of `train`.
    `scratch_distilled`: the same with a teacher.
    `l1`: channels by their L1 norm at the pruned widths.
    `l1_uniform`: channels by their L1 norm at uniform widths."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard; needs `pip install jaxprune[tensorboard]`."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    compilation_cache: bool = True
    """Keep what is compiled in the user's cache folder (`~/.cache/jaxprune`), for the next start;
    not where the environment has a JAX_COMPILATION_CACHE_DIR."""

    def __post_init__(self):
        if not self.name or Path(self.name).name != self.name:
            raise ValueError(f"name must be the name of a folder, not {self.name!r}")
        _at_least("seed", self.seed, 0)
        name_of(self.method)
        for control in self.controls:
            _one_of("controls", control, typing.get_args(Control))
        if len(set(self.controls)) < len(self.controls):
            raise ValueError(f"controls has one twice: {', '.join(self.controls)}")
        if {"scratch", "scratch_distilled"} & set(self.controls):
            _ = self.pretraining
        if "l1_uniform" in self.controls and not self.budget.factors:
            raise ValueError(
                "controls: l1_uniform keeps to the targets of the budget, which has none; leave it "
                "out, or give budget.targets"
            )

    @property
    def pretraining(self) -> float:
        """The epochs after which the unpruned network is what it is.

        Raises:
          ValueError: it has weights of a file, and nothing says how long these were trained.
        """
        model = self.model
        before = model.weights_epochs
        if before is None and (model.weights or model.start) is not None:
            raise ValueError(
                "controls: one from random weights is trained as long as the weights of the file "
                "were; say for how many epochs with --model.weights-epochs"
            )
        return (before or 0.0) + (0.0 if model.weights is not None else self.train.epochs)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.out) if self.out else Path("runs") / self.name


def load(path: str | os.PathLike[str]) -> RunConfig:
    """The config that a file defines: a Python file's `config`, or a run folder's `config.json`.

    A Python file is executed.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it fails, defines no `config`, or that is no RunConfig.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no config file {path}")
    if path.suffix == ".json":
        return _of_json(read_json(path), str(path))
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:
        raise ValueError(f"{path} failed: {type(error).__name__}: {error}") from error
    if not isinstance(config, RunConfig):
        found = "does not define it" if config is None else f"defines a {type(config).__name__}"
        raise ValueError(f"{path} must define `config = RunConfig(...)`, but {found}")
    return config


def save(path: str | os.PathLike[str], config: RunConfig) -> None:
    """Writes a config as JSON, so that `load` gives an equal one back."""
    write_json(path, encode(config))


def encode(config: RunConfig) -> dict[str, Any]:
    """A config as JSON says it: its method is the name with the fields beside it."""
    fields = plain(config)
    return {**fields, "method": {"name": name_of(config.method), **fields["method"]}}


def _of_json(fields: Any, where: str) -> RunConfig:
    """A config as `encode` gives it."""
    old = isinstance(fields, Mapping) and (
        "control" in fields or not isinstance(fields.get("method", {}), Mapping)
    )
    if old:
        raise ValueError(
            f"{where} is of an older jaxprune, whose runs this one does not go on with: begin the "
            "run anew in another folder, or use the version that made it"
        )
    config = _decode(RunConfig, {n: v for n, v in fields.items() if n != "method"}, where)
    if "method" not in fields:
        return config
    options = dict(fields["method"])
    kind = get(options.pop("name", "genetic"))
    return dataclasses.replace(config, method=_decode(kind, options, f"{where}: method"))


def _decode(kind: Any, data: Any, where: str) -> Any:
    """The dataclass `kind` from JSON; `where` names the place in an error."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be an object with the fields of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}
    for name in data:
        if name not in names:
            raise ValueError(f"{where} has a field {name!r} that {kind.__name__} does not know")
    return kind(
        **{
            name: _decode(hints[name], value, f"{where}: {name}")
            if dataclasses.is_dataclass(hints[name])
            else _tuples(value)
            for name, value in data.items()
        }
    )


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that a frozen config holds."""
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _at_least(name: str, value: float | None, least: float) -> None:
    """Raises a ValueError that names the field where its value is too small or not finite."""
    if value is not None and not (value >= least and math.isfinite(value)):
        raise ValueError(f"{name} must be at least {least}, not {value}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises a ValueError that names the field where its value is no known one."""
    if value not in known:
        raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")
