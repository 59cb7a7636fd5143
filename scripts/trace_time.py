"""How long the engine takes to find the groups of a shipped model and to slice it.

    python scripts/trace_time.py resnet50

Imports and the variables are not counted; half of each group is kept.

ResNet-50 on 2 x86-64 cores, JAX 0.10.2: traced in 0.70 s (0.67-0.89, n = 7), sliced in 0.03 s; on
a quiet Intel Xeon traced in 0.46 s (0.36-0.57, n = 7).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp


def main() -> None:
    parser = argparse.ArgumentParser(description="Times trace and slice of a shipped model.")
    parser.add_argument("model", choices=jp.models.NAMES, nargs="?", default="resnet50")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    shape = (32, 32, 3) if arguments.model in ("vgg16", "vgg19") else (224, 224, 3)
    module = jp.models.build(arguments.model, num_classes=1000, input_shape=shape)
    structs = jax.eval_shape(lambda k: jp.models.init(module, shape, k), jax.random.key(0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), structs)
    fn, variables = jp.functional(module, variables)

    times: dict[str, list[float]] = {"trace": [], "slice": []}
    for _ in range(arguments.runs):
        began = time.perf_counter()
        graph = jp.trace(fn, variables, jnp.zeros((1, *shape)))
        times["trace"].append(time.perf_counter() - began)
        masks = {n: (np.arange(g.size) < (g.size + 1) // 2) * 1.0 for n, g in graph.groups.items()}
        began = time.perf_counter()
        jax.block_until_ready(graph.slice(variables, masks).variables)
        times["slice"].append(time.perf_counter() - began)
    cost = graph.cost()
    print(f"{arguments.model}: {len(graph.groups)} groups, {cost.params:,} parameters, "
          f"{cost.macs:,} MACs")  # fmt: skip
    print(f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores")
    for name, seconds in times.items():
        print(
            f"{name}: median {statistics.median(seconds):.2f} s, "
            f"{min(seconds):.2f} to {max(seconds):.2f}, n = {len(seconds)}"
        )


if __name__ == "__main__":
    main()
