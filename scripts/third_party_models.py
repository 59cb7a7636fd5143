"""Models by others, cut at random to half of each group's units: does every one slice and run?

    pip install keras dm-haiku equinox flaxmodels equimo
    python scripts/third_party_models.py --out third_party.json

Each model, with random weights and in evaluation mode, is traced, and the network sliced compared
to the masked one on a random image. A model whose package is not installed is skipped, one
that the output file holds already is not run again; the table is printed in Markdown. `--only`
takes glob patterns of names, such as `keras/*`.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import importlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.graph.compiled import quick_options

Built = tuple[Callable[..., Any], Any, tuple[int, ...]]
"""A function, its variables and the shape of its input."""


def keras_model(name: str, size: int = 96) -> Built:
    applications = importlib.import_module("keras").applications
    model = getattr(applications, name)(
        weights=None, input_shape=(size, size, 3), classifier_activation=None
    )
    return *jp.functional(model), (1, size, size, 3)


def haiku_model(name: str, size: int = 96) -> Built:
    hk = importlib.import_module("haiku")

    def forward(x: jax.Array, is_training: bool = False) -> jax.Array:
        return getattr(hk.nets, name)(num_classes=1000)(x, is_training)

    transformed = hk.transform_with_state(forward)
    shape = (1, size, size, 3)
    initial = functools.partial(transformed.init, is_training=True)
    return *jp.functional(transformed, drawn(initial, shape)), shape


def flaxmodels_model(name: str, size: int = 96) -> Built:
    model = getattr(importlib.import_module("flaxmodels"), name)(
        output="logits", pretrained=None, normalize=False
    )
    shape = (1, size, size, 3)
    fn, variables = jp.functional(model, drawn(functools.partial(model.init, train=False), shape))
    return functools.partial(fn, train=False), variables, shape


def drawn(init: Callable[..., Any], shape: tuple[int, ...], seed: int = 0) -> Any:
    """Random variables without compiling `init`: vectors, such as variances, are positive."""
    rng = np.random.default_rng(seed)

    def draw(struct: Any) -> np.ndarray:
        fan_in = math.prod(struct.shape[:-1])
        if fan_in == 1:
            return np.asarray(rng.uniform(0.5, 1.5, struct.shape), struct.dtype)
        return np.asarray(rng.normal(size=struct.shape) / math.sqrt(fan_in), struct.dtype)

    structs = jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape))
    return jax.tree.map(lambda struct: jnp.asarray(draw(struct)), structs)


def equimo_model(module: str, build: str, size: int = 96, **fields: Any) -> Built:
    models = importlib.import_module(f"equimo.models.{module}")
    return equinox_model(getattr(models, build)(**fields), size, key=True)


def equinox_model(made: Any, size: int, key: bool) -> Built:
    fn, variables = jp.functional(*made) if isinstance(made, tuple) else jp.functional(made)
    keys = {"key": jax.random.key(0)} if key else {}
    return lambda v, x: fn(v, x, **keys), variables, (3, size, size)


_KERAS = """
VGG16 VGG19 ResNet50 ResNet101 ResNet152 ResNet50V2 ResNet101V2 InceptionV3 InceptionResNetV2
Xception MobileNet MobileNetV2 MobileNetV3Small MobileNetV3Large DenseNet121 DenseNet169 DenseNet201
NASNetMobile EfficientNetB0 EfficientNetB1 EfficientNetB2 EfficientNetV2B0 EfficientNetV2S
ConvNeXtTiny ConvNeXtSmall
""".split()
_HAIKU = ("ResNet18", "ResNet34", "ResNet50", "ResNet101", "MobileNetV1")
_FLAXMODELS = {"ResNet18": 96, "ResNet50": 96, "VGG16": 224}
_EQUIMO = {
    "convnext_t": ("convnext", "convnext_t"),
    "mobilenetv3_small": ("mobilenet", "mobilenetv3_small"),
    "mobilenetv3_large": ("mobilenet", "mobilenetv3_large"),
    "reduceformer_b1": ("reduceformer", "reduceformer_backbone_b1"),
    "attnet_xxs": ("attnet", "attnet_xxs"),
    "iformer_t": ("iformer", "iformer_t"),
}

MODELS: dict[str, Callable[[], Built]] = {
    **{f"keras/{name}": functools.partial(keras_model, name) for name in _KERAS},
    **{f"haiku/{name}": functools.partial(haiku_model, name) for name in _HAIKU},
    **{f"flaxmodels/{name}": functools.partial(flaxmodels_model, name, size)
       for name, size in _FLAXMODELS.items()},
    **{f"equimo/{name}": functools.partial(equimo_model, *m) for name, m in _EQUIMO.items()},
    "equimo/vit_tiny": functools.partial(
        equimo_model, "vit", "vit_tiny_patch16_224", img_size=96
    ),
}  # fmt: skip


def cut_in_half(name: str, seed: int = 0) -> dict[str, Any]:
    """One row of the table.

    Raises:
      ImportError: the model's package is not installed.
    """
    fn, variables, shape = MODELS[name]()
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(functools.partial(seen, rng), variables)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    began = time.perf_counter()
    graph = jp.trace(fn, variables, x)
    traced = time.perf_counter() - began
    masks = {n: np.zeros(g.size, np.float32) for n, g in graph.groups.items()}
    for mask in masks.values():
        mask[rng.permutation(len(mask))[: (len(mask) + 1) // 2]] = 1
    began = time.perf_counter()
    pruned = graph.slice(variables, masks)
    small = jax.jit(pruned.wrap(fn), compiler_options=quick_options())
    out = jax.tree.leaves(jax.block_until_ready(small(pruned.variables, x)))[0]
    ran = time.perf_counter() - began
    masked = jax.jit(graph.masked(fn), compiler_options=quick_options())
    expected = jax.tree.leaves(masked(variables, masks, x))[0]
    before, after = graph.cost(), graph.cost(masks)
    return {
        "groups": len(graph.groups),
        "prunable": prunable(graph, variables),
        "params": before.params / after.params,
        "macs": before.macs / after.macs,
        "difference": float(jnp.abs(out - expected).max() / jnp.abs(expected).max()),
        "trace": traced,
        "run": ran,
    }


def seen(rng: np.random.Generator, leaf: Any) -> Any:
    """A zero or almost zero weight (last layer, layer scale) hides mistakes: it is drawn anew."""
    # In NumPy: JAX would compile this for every shape.
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or np.abs(np.asarray(leaf)).max() > 1e-3:
        return leaf
    return jnp.asarray(np.abs(rng.normal(size=leaf.shape)) / 4, leaf.dtype)


def prunable(graph: jp.ChannelGraph, variables: Any) -> float:
    """The share of the input and output channels of all kernels that lie in a group."""
    from jaxprune.graph import paths

    shapes = {path: leaf.shape for path, leaf in paths.leaves(variables)}
    # A bias or a scale can have axes of size 1 beside its own.
    shapes = {path: shape for path, shape in shapes.items() if sum(n > 1 for n in shape) > 1}
    inside = sum(
        len(np.unique(m.positions))
        for group in graph.groups.values()
        for m in group.members
        if m.path in shapes
    )
    outside = 0
    for axis, reason in graph.fixed.items():
        path, _, number = axis.removesuffix("]").rpartition("[")
        if path in shapes and "a window slides" not in reason:
            outside += shapes[path][int(number)]
    return inside / max(1, inside + outside)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cuts models of other packages in half.")
    parser.add_argument("--out", type=Path, default=Path("third_party.json"))
    parser.add_argument("--only", nargs="*", default=["*"])
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in MODELS:
        if name in rows or not any(fnmatch.fnmatch(name, only) for only in arguments.only):
            continue
        try:
            rows[name] = cut_in_half(name)
        except ImportError as problem:
            print(f"{name}: skipped, {problem}", flush=True)
            continue
        except Exception as problem:  # the next model can still be run
            print(f"{name}: FAILED, {type(problem).__name__}: {problem}"[:2000], flush=True)
            continue
        print(f"{name}: {rows[name]}", flush=True)
        arguments.out.write_text(json.dumps(rows, indent=2))
        jax.clear_caches()
    print(table(rows))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| model | groups | channels prunable | parameters | MACs | largest difference | trace "
        "| slice, compile, run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        if name in rows:
            r = rows[name]
            lines.append(
                f"| {name} | {r['groups']} | {100 * r['prunable']:.0f} % | ÷ {r['params']:.2f} | "
                f"÷ {r['macs']:.2f} | {r['difference']:.0e} | {r['trace']:.1f} s | "
                f"{r['run']:.1f} s |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
