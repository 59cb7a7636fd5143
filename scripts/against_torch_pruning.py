"""The engine beside Torch-Pruning on the same architectures: time to find the groups, to cut, and
which groups each finds.

    pip install torch torch-pruning pytorchcv keras
    python scripts/against_torch_pruning.py

Both sides cut half of the channels of every group but the classifier's outputs. Imports, building
the models and their weights are not counted. What is not installed is skipped by name.

Torch-Pruning 1.6.1, seconds, median and range of 3 (`--runs 3`), on 2 x86-64 cores, JAX 0.10.2 and
PyTorch 2.13. Both find as many groups of the same sizes, but for ResNeXt-50, where Torch-Pruning
finds 37. The VGG-16 is that of ImageNet:

| network     | groups | find: here       | Torch-Pruning    | cut: here        | Torch-Pruning    |
|-------------|--------|------------------|------------------|------------------|------------------|
| VGG-16      | 15     | 0.52 (0.49-0.55) | 0.66 (0.47-0.67) | 0.14 (0.13-0.16) | 1.37 (1.30-1.49) |
| ResNet-18   | 12     | 0.31 (0.14-0.36) | 0.04 (0.03-0.04) | 0.01 (0.01-0.01) | 0.04 (0.04-0.04) |
| ResNet-50   | 37     | 0.85 (0.66-1.08) | 0.09 (0.08-0.10) | 0.03 (0.03-0.03) | 0.13 (0.12-0.13) |
| ResNeXt-50  | 21     | 0.91 (0.71-0.91) | 0.11 (0.10-0.12) | 0.03 (0.03-0.03) | 0.15 (0.15-0.16) |
| MobileNetV2 | 25     | 0.63 (0.60-0.98) | 0.04 (0.03-0.05) | 0.02 (0.02-0.02) | 0.06 (0.06-0.06) |
| DenseNet121 | 120    | 1.64 (1.61-1.71) | 0.35 (0.33-0.70) | 0.04 (0.04-0.05) | 0.90 (0.89-1.25) |

In ResNeXt-50 a grouped convolution's channels go by whole blocks here, in and out together, so
that any mask is valid: 16 groups of 32 blocks, where Torch-Pruning lists the channels before and
after it apart. Torch-Pruning finds the groups faster on all of these but VGG-16; it walks a graph
of modules, where the engine reads every equation of the jaxpr.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxprune as jp

SHAPE = (224, 224, 3)


def shipped(name: str) -> Callable[[], tuple[Any, Any]]:
    def build() -> tuple[Any, Any]:
        module = jp.models.build(name, num_classes=1000, input_shape=SHAPE)
        structs = jax.eval_shape(lambda k: jp.models.init(module, SHAPE, k), jax.random.key(0))
        rng = np.random.default_rng(0)
        fill = lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype)  # noqa: E731
        return jp.functional(module, jax.tree.map(fill, structs))

    return build


def of_keras(name: str) -> Callable[[], tuple[Any, Any]]:
    def build() -> tuple[Any, Any]:
        import keras

        return jp.functional(getattr(keras.applications, name)(weights=None))

    return build


# The architecture in pytorchcv (which, unlike torchvision, is PyTorch alone) -> the same one here.
ARCHITECTURES = {
    "vgg.bn_vgg16": shipped("vgg16_imagenet"),
    "resnet.resnet18": shipped("resnet18"),
    "resnet.resnet50": shipped("resnet50"),
    "resnext.resnext50_32x4d": shipped("resnext50"),
    "mobilenetv2.mobilenetv2b_w1": shipped("mobilenetv2"),
    "densenet.densenet121": of_keras("DenseNet121"),
}


def ours(build: Callable[[], tuple[Any, Any]]) -> tuple[float, float, Counter[int]]:
    """Seconds to trace, seconds to slice, how many groups there are of each size."""
    fn, variables = build()
    image = jnp.zeros((1, *SHAPE))
    began = time.perf_counter()
    graph = jp.trace(fn, variables, image)
    traced = time.perf_counter() - began
    masks = {n: (np.arange(g.size) < (g.size + 1) // 2) * 1.0 for n, g in graph.groups.items()}
    began = time.perf_counter()
    jax.block_until_ready(graph.slice(variables, masks).variables)
    return traced, time.perf_counter() - began, Counter(g.size for g in graph.groups.values())


def theirs(name: str) -> tuple[float, float, Counter[int]]:
    """The same of Torch-Pruning."""
    torch, tp = (importlib.import_module(name) for name in ("torch", "torch_pruning"))
    module, _, builder = name.partition(".")
    model = getattr(importlib.import_module(f"pytorchcv.models.{module}"), builder)().eval()
    image = torch.zeros(1, SHAPE[2], *SHAPE[:2])
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    last = [m for m in model.modules() if isinstance(m, kinds)][-1:]
    began = time.perf_counter()
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=image)
    groups = list(graph.get_all_groups(ignored_layers=last, root_module_types=list(kinds)))
    traced = time.perf_counter() - began
    sizes = Counter(len(group[0].idxs) for group in groups)
    pruner = tp.pruner.MagnitudePruner(
        model,
        image,
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=last,
    )
    began = time.perf_counter()
    pruner.step()
    return traced, time.perf_counter() - began, sizes


def main() -> None:
    parser = argparse.ArgumentParser(description="The engine beside Torch-Pruning.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(ARCHITECTURES))
    parser.add_argument("--out", type=Path, default=Path("runs/torch_pruning.json"))
    arguments = parser.parse_args()
    console = Console(highlight=False, width=120)
    table = Table("architecture", "", "find the groups, s", "cut, s", "groups", "sizes: count")
    record = {}
    for name in arguments.only or ARCHITECTURES:
        found: dict[str, Counter[int]] = {}
        for side, measure in {
            "jaxprune": lambda name=name: ours(ARCHITECTURES[name]),
            "Torch-Pruning": lambda name=name: theirs(name),
        }.items():
            try:
                runs = [measure() for _ in range(arguments.runs)]
            except ImportError as error:
                table.add_row(name, side, f"not installed: {error.name}", "", "", "")
                continue
            traces, cuts, sizes = zip(*runs, strict=True)
            found[side] = sizes[-1]
            table.add_row(
                name, side, _spread(traces), _spread(cuts), str(sum(sizes[-1].values())),
                ", ".join(f"{s}: {n}" for s, n in sorted(sizes[-1].items())),
            )  # fmt: skip
            record.setdefault(name, {})[side] = {
                "trace": traces, "cut": cuts, "sizes": dict(sizes[-1])
            }  # fmt: skip
        if len(found) == 2:
            same = found["jaxprune"] == found["Torch-Pruning"]
            table.add_row("", "", "", "", "the same sizes" if same else "[bold]differ[/]", "")
    console.print(table)
    console.print(
        f"n = {arguments.runs}, median (least to most); JAX {jax.__version__}, "
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores"
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2))


def _spread(seconds: tuple[float, ...]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
