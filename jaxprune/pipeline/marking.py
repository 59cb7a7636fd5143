"""A watermark into a run, and out of the architecture of whatever network there is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune import checkpoint, interop
from jaxprune.config import RunConfig
from jaxprune.frontends import named
from jaxprune.graph import Pruned, paths, trace
from jaxprune.marks.payload import of_bytes
from jaxprune.methods import watermark
from jaxprune.methods.watermark import Reading, Scheme, Sizes, Watermark
from jaxprune.pipeline.experiment import config_of

_CHANCE = 1e-3
"""What agrees with a claimed message less surely is not called a mark."""


class Architecture(NamedTuple):
    """What a mark is read from.

    Attributes:
      sizes: group → units before pruning.
      widths: group → units now.
    """

    sizes: Sizes
    widths: Sizes


def marked(source: str | os.PathLike[str], method: Watermark, out: str) -> RunConfig:
    """The config of a run that marks the trained network of another, without controls.

    Raises:
      FileNotFoundError: there is no such run.
    """
    return dataclasses.replace(config_of(source), method=method, out=out, controls=())


def scheme_of(network: str | os.PathLike[str]) -> Scheme | None:
    """How a run was marked; None of anything else."""
    if not (Path(network) / "config.json").is_file():
        return None
    method = config_of(network).method
    return method.scheme if isinstance(method, Watermark) else None


def architecture(
    network: str,
    model: str | None = None,
    inputs: Sequence[str] = (),
    arguments: Sequence[str] = (),
    protect: Sequence[str] = (),
) -> Architecture:
    """Widths before and after pruning, from a network alone; its weights are not read.

    Args:
      network: a run, a saved network, a file of PyTorch's weights, or `module:attribute` of a
        model of your own.
      model: the network that it was pruned from, by name or `module:attribute`. A run and a saved
        network know it themselves.
      inputs: shapes of its inputs, as for `jaxprune inspect`.
      arguments: keywords of your own model, as there.
      protect: what was protected when it was marked.

    Raises:
      FileNotFoundError: there is no such network.
      ValueError: one of another family; no model where it takes one.
    """
    folder = Path(network)
    if (folder / "config.json").is_file():
        folder = folder / "pruned"
        if not folder.exists():
            raise FileNotFoundError(
                f"{network} does not have pruned yet: run `jaxprune finetune {network}` first"
            )
    saved = checkpoint.load(folder) if folder.is_dir() else None
    if saved is not None and model is None:
        return _of_saved(saved)
    if model is None or not inputs:
        raise ValueError(
            f"{network}: name the network that it was pruned from with --model, and its --input, "
            "such as --model vgg16 --input 32,32,3; saved networks know theirs"
        )
    keywords = dict(map(named.keyword, arguments))
    shapes = named.structs(inputs, ())
    fn, dense, shown = named.named_network(model, shapes, {} if ":" not in model else keywords)
    if saved is not None:
        variables = saved.variables
    elif ":" in network:
        _, variables, _ = named.named_network(network, shown, keywords)
    else:
        try:
            variables = interop.from_torch(network, model)
        except ValueError as error:
            if not Path(network).is_file() or "do not fit" not in str(error):
                raise
            raise ValueError(
                f"{network} is no pruned form of {model}, whose layers are others; name the "
                "network that it was pruned from"
            ) from error
    graph = trace(fn, dense, *shown, protect=protect)
    widths = watermark.widths_of(graph, dense, variables)
    return Architecture({name: group.size for name, group in graph.groups.items()}, widths)


def _of_saved(saved: Pruned) -> Architecture:
    """By the shapes before pruning that are saved with a network."""
    shapes = {path: jnp.shape(leaf) for path, leaf in paths.leaves(saved.variables)}
    sizes = {}
    for name, width in saved.widths.items():
        path, _, axis = name.removesuffix("]").rpartition("[")
        each = shapes[path][int(axis)] // width
        sizes[name] = saved.dense[path][0][int(axis)] // each
    return Architecture(sizes, dict(saved.widths))


def extract(of: Architecture, key_file: str, scheme: Scheme) -> Reading:
    """The mark of an architecture.

    Raises:
      ValueError: no key, or a payload that these widths cannot bear.
    """
    return watermark.read(of.sizes, of.widths, watermark.read_key(key_file), scheme)


def require_scheme(scheme: Scheme) -> None:
    """Refuses a scheme that nothing can be read by.

    Raises:
      ValueError: no bits, or a number that is out of range.
    """
    if scheme.bits < 1:
        raise ValueError("say how long the message is with --bits N, or give it with --message HEX")
    if scheme.bits % 8:
        raise ValueError(f"--bits is a multiple of 8, since a message is bytes, not {scheme.bits}")
    Watermark(code=scheme.code, strength=scheme.strength, check=scheme.check, step=scheme.step)


def require_fit(reading: Reading, scheme: Scheme, claimed: bytes | None) -> float | None:
    """Refuses what was read where the check, or a claimed message, says that it is none.

    Returns:
      with a claimed message, how likely random bits agree with it at least as well.

    Raises:
      ValueError: another key, another network or another scheme, or widths that were changed.
    """
    away = (
        "the key is another one, the network was not marked in this way (--bits, --code, "
        "--strength, --check, --step), or its widths were changed since"
    )
    if claimed is None:
        if reading.fits is False:
            raise ValueError(f"the check behind the message does not fit: {away}")
        return None
    bits = of_bytes(claimed)
    chance = watermark.chance(reading.message, bits)
    if chance > _CHANCE:
        agree = int(np.sum(reading.message == bits))
        raise ValueError(
            f"{agree} of {scheme.bits} bits agree with the message, and random ones do as often "
            f"with probability {chance:.2g}: {away}"
        )
    return chance
