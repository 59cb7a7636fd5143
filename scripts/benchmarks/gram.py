"""The Gram statistics of one layer beside a plain matrix product of the same size.

A consumer of C channels in 3 × 3 taps reads R patches: `H = x xᵀ` is a product of (9 C × R) and
(R × 9 C), in float32 at the highest precision as the statistics ask it. Ours is everything from the
layer's input to its matrix `G = Σ H ∘ WᵀW`: drawing positions, unfolding, `H`, and the collapse;
what the layer before it takes to make that input is timed apart and subtracted.
The last row is the whole VGG-16.

128 images at 16 positions each, 2 cores of an AMD EPYC, JAX 0.10.2: 0.61 of the product's rate for
64 channels, 0.68 for 128, 0.67 for 256 and 0.63 for 512. A whole VGG-16 takes 2.97 s (2.87-3.02, n
= 3).
"""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np
from jax import lax

import jaxprune as jp
from benchmarks.common import Table, together
from benchmarks.networks import shipped
from jaxprune.statistics import grams

ASKED = 0.5
LAYERS = ((32, 64, 64), (16, 128, 128), (8, 256, 256), (4, 512, 512))
POSITIONS = 16


def measure(*, short: bool) -> Table:
    """Rates of the statistics, in parts of a product's."""
    images = 16 if short else 128
    table = Table(f"Gram statistics over {images} images, {POSITIONS} positions each")
    rates = []
    for size, channels, outputs in LAYERS[:1] if short else LAYERS:
        x = jax.random.normal(jax.random.key(0), (images, size, size, 3))
        variables = {
            "stem": 0.2 * jax.random.normal(jax.random.key(1), (1, 1, 3, channels)),
            "kernel": 0.1 * jax.random.normal(jax.random.key(2), (3, 3, channels, outputs)),
        }
        graph = jp.trace(network, variables, x)
        rows = images * min(POSITIONS, size * size)
        patches = jax.random.normal(jax.random.key(3), (rows, 9 * channels))
        product = jax.jit(lambda a: lax.dot(a.T, a, precision="highest"))

        problem = jp.Problem(graph, network, variables, [x], jp.Budget())

        def statistics(problem=problem) -> Any:
            return grams(problem, positions=POSITIONS)

        forward = jax.jit(jp.accelerate(hidden))
        times = together(
            {
                "with the input": statistics,
                "input": lambda forward=forward, v=variables, x=x: forward(v, x),
                "product": lambda product=product, p=patches: product(p),
            },
            n=2 if short else 15,
        )
        ours = times["with the input"].median - times["input"].median
        work = 2 * rows * (9 * channels) ** 2
        share = times["product"].median / ours
        rates.append(share)
        table.rows.append(
            {
                "map": f"{size}×{size}", "channels": channels, **times, "ours, ms": 1e3 * ours,
                "product, GFLOP/s": work / times["product"].median / 1e9, "of its rate": share,
            }
        )  # fmt: skip
    table.notes.append(f"At least {min(rates):.2f} of the product's rate (asked: {ASKED}).")
    if not short:
        table.rows.append(whole_network(images))
    return table


def network(variables: Any, x: jax.Array) -> jax.Array:
    """A convolution of one tap that makes the channels, and the one that reads them."""
    return convolution(hidden(variables, x), variables["kernel"])


def hidden(variables: Any, x: jax.Array) -> jax.Array:
    """What the second convolution reads."""
    return jax.nn.relu(convolution(x, variables["stem"]))


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """With stride 1 and the map's size kept."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def whole_network(images: int) -> dict[str, Any]:
    """Seconds of all statistics of a VGG-16, compiled."""
    _, fn, variables, x = shipped("vgg16", images)
    graph = jp.trace(fn, variables, x[:1])
    problem = jp.Problem(graph, fn, variables, [x], jp.Budget())
    began = time.perf_counter()
    grams(problem)
    first = time.perf_counter() - began
    times = together({"with the input": lambda: grams(problem)}, n=3)
    return {
        "map": f"VGG-16, with compilation {first:.1f} s",
        "channels": int(np.sum(graph.sizes)),
        **times,
    }
