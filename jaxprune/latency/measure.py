"""Measures a network on the device at hand: latencies over widths, and the widths that suit it.

    graph, budget = latency.prepare(graph, "latency/2", fn, variables, images)

Each layer is timed alone over the widths at its two ends, whole networks at a few widths beside
them; see `jaxprune.latency.table` for what is made of it. What is timed is compiled and run as
the sliced network is, so that the device's own stairs and slow widths are in it. Widths in between
are interpolated, and `jaxprune.prune` times the pruned network at the end: `pruned.latency` has
target, prediction and measurement, and a missed target is a warning.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Budget
from jaxprune.files import plain, read_json, write_json
from jaxprune.graph import ChannelGraph, Pruned
from jaxprune.kernels import accelerate
from jaxprune.latency.measured import latency_of, measured
from jaxprune.latency.pieces import Piece, pieces_of
from jaxprune.latency.table import LatencyCheck, LatencyTable, LayerTimes, Rounding, choose_rounding
from jaxprune.masks import keep_top

KEPT = (0.1, 0.4, 0.7, 0.95, 1.0)
"""Kept fractions at which layers and networks are timed; the one near 1 tells odd widths apart."""
WINDOW = 32
"""How many neighbouring widths are timed to choose `round_to`."""
_ROUNDING_LAYERS = 3
_LANES = 128  # of a TPU's matrix unit


class Call(NamedTuple):
    """A program with its arguments."""

    program: jax.stages.Lowered
    args: tuple[Any, ...]


Timer = Callable[[Sequence[Call]], list[float]]
"""Seconds of each call, comparable with one another; compiling is no part of them."""
OnLayer = Callable[[int, int], None]
"""Called with the number of layers measured, and of all layers."""


def time_in_turn(calls: Sequence[Call], rounds: int = 5, least: float = 2e-3) -> list[float]:
    """Median seconds of each call, timed in turn so that what else runs falls on all alike.

    Short calls are repeated until a measurement takes `least` seconds.
    """
    runs = [functools.partial(call.program.compile(), *call.args) for call in calls]
    repeats = []
    for run in runs:
        _seconds(run, 1)
        repeats.append(max(1, min(100, int(least / max(_seconds(run, 1), 1e-9)))))
    taken = [[_seconds(r, n) for r, n in zip(runs, repeats, strict=True)] for _ in range(rounds)]
    return np.median(np.array(taken).reshape(rounds, -1), axis=0).tolist()


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(run())
    return (time.perf_counter() - began) / repeats


def measure(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    *args: Any,
    round_to: int = 1,
    kept: Sequence[float] = KEPT,
    timer: Timer = time_in_turn,
    on_layer: OnLayer = lambda done, total: None,
) -> LatencyTable:
    """Times the layers of a network over their widths, and the whole of it.

    Layers that compile to the same program are timed once.

    Args:
      graph: from `trace`.
      fn: the traced function.
      variables: its dense variables.
      *args: its further inputs, as large as the batches whose latency counts.
      round_to: widths are multiples of it, where a group has them.
      kept: fractions of a group's units at which it is timed; 1 has to be one of them.
      timer: what times compiled calls.
      on_layer: called after each layer, for a progress bar.
    """
    grid = [_widths(graph, fraction, round_to) for fraction in sorted({*kept, 1.0})]
    pieces = pieces_of(graph, fn, variables, *args).pieces
    known: dict[str, float] = {}
    layers = []
    for done, piece in enumerate(pieces, start=1):
        layers.append(_layer_times(graph, piece, grid, known, timer))
        on_layer(done, len(pieces))
    table = LatencyTable(
        _group_sizes(graph), device(), _types(args), tuple(layers), np.array([]), np.array([]),
    )  # fmt: skip
    whole = timer([network_of(graph, fn, variables, args, widths) for widths in grid])
    sums, at = np.unique(table.layer_sum(np.array(grid)), return_index=True)
    return dataclasses.replace(table, sums=sums, whole=np.array(whole)[at])


def measure_rounding(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    *args: Any,
    timer: Timer = time_in_turn,
) -> Rounding:
    """Chooses `round_to` for the device: on a TPU its 128 lanes, elsewhere by measurement.

    The layers with the most work are timed at neighbouring widths around half of theirs, the same
    at both ends.

    Raises:
      ValueError: no layer has channels enough to tell.
    """
    if jax.default_backend() == "tpu":
        return Rounding(_LANES, device(), {}, f"the matrix unit of a TPU has {_LANES} lanes")
    sizes = graph.sizes
    pieces = pieces_of(graph, fn, variables, *args).pieces
    ends = {p: min((int(sizes[g]) for g in (*p.reads, *p.writes)), default=0) for p in pieces}
    busiest = sorted((p for p in pieces if p.reads and ends[p] >= 8), key=lambda p: -p.macs)
    if not busiest:
        raise ValueError(
            "budget.round_to: no layer has 8 channels at both ends, too few to measure which "
            "widths suit the device; give a number"
        )
    layers = []
    for piece in busiest[:_ROUNDING_LAYERS]:
        top = max(ends[piece] // 2, min(ends[piece], WINDOW))
        window = np.arange(max(1, top - WINDOW + 1), top + 1)
        # Widths of groups that are not in the piece do not matter.
        calls = _alone(piece, [np.full(len(sizes), width) for width in window])
        layers.append((window, np.array(timer(calls))))
    return choose_rounding(layers, device())


def prepare(
    graph: ChannelGraph,
    budget: Budget,
    fn: Callable[..., Any],
    variables: Any,
    *args: Any,
    path: str | os.PathLike[str] | None = None,
    timer: Timer = time_in_turn,
    on_layer: OnLayer = lambda done, total: None,
) -> tuple[ChannelGraph, Budget]:
    """Measures what a budget asks for: `round_to="measured"`, and a target of `latency`.

    Args:
      graph: from `trace`.
      budget: one that asks for neither comes back as it is.
      fn: the traced function.
      variables: its dense variables.
      *args: its further inputs, as large as the batches whose latency counts.
      path: a JSON file that keeps what was measured, and is read where it is of the same network,
        inputs and device.
      timer: what times compiled calls.
      on_layer: called with how many layers have been measured, and of how many.

    Returns:
      The graph with its `latency` and `rounding`, and the budget with a number for `round_to`.

    Raises:
      ValueError: a latency beyond reach, as soon as the narrowest network has been timed.
    """
    of = {"groups": _group_sizes(graph), "device": device(), "inputs": _types(args)}
    kept: dict[str, Any] = read_json(path) if path and Path(path).exists() else {}
    if kept.get("of") != of:
        kept = {"of": of}
    before = dict(kept)
    if budget.round_to == "measured":
        if "rounding" not in kept:
            kept["rounding"] = plain(measure_rounding(graph, fn, variables, *args, timer=timer))
        rounding = _rounding(kept["rounding"])
        graph = measured(graph, rounding=rounding)
        budget = dataclasses.replace(budget, round_to=rounding.multiple)
    if "latency" in budget.factors:
        if kept.get("round_to") != budget.round_to:
            kept |= {"round_to": budget.round_to, "latency": None}
        if kept["latency"] is None:
            # The floor follows from what is within reach, which is not known before.
            bare = dataclasses.replace(budget, floor=0)
            _require_reachable(graph, bare, fn, variables, args, timer)
            kept["latency"] = plain(
                measure(
                    graph, fn, variables, *args,
                    round_to=bare.bounds(graph)[2][0], timer=timer, on_layer=on_layer,
                )
            )  # fmt: skip
        graph = measured(graph, latency=_table(kept["latency"]))
    if path and kept != before:
        write_json(path, kept)
    return graph, budget


def check(
    graph: ChannelGraph,
    budget: Budget | None,
    fn: Callable[..., Any],
    variables: Any,
    pruned: Pruned,
    *args: Any,
    timer: Timer = time_in_turn,
) -> LatencyCheck:
    """Holds the prediction against the sliced network itself.

    Args:
      graph: with the table.
      budget: whose target is reported; None for none.
      fn: the traced function.
      variables: the dense variables.
      pruned: what `graph.slice` made.
      *args: the inputs of the table.
      timer: what times compiled calls.

    Raises:
      ValueError: the graph has no table.
    """
    table = latency_of(graph)
    if table is None:
        raise ValueError("this graph has no latencies yet: measure them with latency.prepare")
    calls = [call_of(fn, variables, args), call_of(pruned.wrap(fn), pruned.variables, args)]
    dense, taken = timer(calls)
    target = None
    if budget is not None and "latency" in budget.factors:
        target = dense / budget.factors["latency"]  # of now: a device is not always as fast
    widths = np.array([pruned.widths[name] for name in graph.names])
    return LatencyCheck(target, float(table(widths)), taken, dense)


def device() -> str:
    """The device that is measured, in words."""
    found = jax.devices()[0]
    if found.platform != "cpu":
        return found.device_kind
    return f"{platform.processor() or platform.machine()} with {os.cpu_count()} cores"


def _require_reachable(
    graph: ChannelGraph,
    budget: Budget,
    fn: Callable[..., Any],
    variables: Any,
    args: tuple[Any, ...],
    timer: Timer,
) -> None:
    """Two networks tell what a table of dozens would: how much faster the narrowest one is."""
    widths = (graph.sizes, budget.bounds(graph)[0])
    dense, narrowest = timer([network_of(graph, fn, variables, args, w) for w in widths])
    if dense / narrowest < budget.factors["latency"]:
        raise ValueError(
            f"budget.targets: {budget.targets!r} is beyond reach for latency: the narrowest "
            f"network that the groups' limits allow takes {1e3 * narrowest:.3g} ms for a batch of "
            f"{_types(args)}, the whole one {1e3 * dense:.3g} ms; the best is "
            f"'latency/{np.floor(100 * dense / narrowest) / 100:g}'"
        )


def _layer_times(
    graph: ChannelGraph,
    piece: Piece,
    grid: Sequence[np.ndarray],
    known: dict[str, float],
    timer: Timer,
) -> LayerTimes:
    """Times a piece where its two ends keep every pair of the grid's widths."""
    sizes = graph.sizes
    ends = []
    for at in (list(piece.reads), list(piece.writes)):
        points = {float(w[at].sum() / max(sizes[at].sum(), 1)): w for w in grid}
        ends.append(dict(sorted(points.items())))
    in_reads = np.isin(np.arange(len(sizes)), piece.reads)
    pairs = itertools.product(ends[0].values(), ends[1].values())
    calls = _alone(piece, [np.where(in_reads, read, written) for read, written in pairs])
    texts = [call.program.as_text() for call in calls]
    new = {text: call for text, call in zip(texts, calls, strict=True) if text not in known}
    known.update(zip(new, timer(list(new.values())), strict=True))
    names = graph.names
    return LayerTimes(
        piece.name,
        tuple(names[g] for g in piece.reads),
        tuple(names[g] for g in piece.writes),
        np.array(list(ends[0])),
        np.array(list(ends[1])),
        np.array([known[t] for t in texts]).reshape(len(ends[0]), len(ends[1])),
    )


def _widths(graph: ChannelGraph, fraction: float, round_to: int) -> np.ndarray:
    """Every group at about a fraction of its units, in allowed widths."""
    sizes = graph.sizes
    rounded = np.maximum(np.rint(fraction * sizes / round_to), 1).astype(int) * round_to
    return np.where(fraction == 1, sizes, np.minimum(rounded, sizes))


def network_of(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    args: tuple[Any, ...],
    widths: np.ndarray,
) -> Call:
    """The network where groups keep `widths` (G,)."""
    scores = {name: -np.arange(group.size) for name, group in graph.groups.items()}
    masks = keep_top(scores, dict(zip(graph.names, widths.tolist(), strict=True)))
    pruned = graph.slice(variables, masks)
    return call_of(pruned.wrap(fn), pruned.variables, args)


def call_of(fn: Callable[..., Any], variables: Any, args: tuple[Any, ...]) -> Call:
    """A function as a call that can be timed."""
    arguments = jax.tree.map(jnp.asarray, (variables, *args))
    return Call(jax.jit(accelerate(fn)).lower(*arguments), arguments)


def _alone(piece: Piece, widths: Sequence[np.ndarray]) -> list[Call]:
    """A piece at several widths (G,); operands alike are one array, for they can be large."""

    @functools.cache
    def operand(shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Ordinary numbers to every equation. From the host: nothing is compiled for a shape."""
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), shape)
        return jnp.asarray(np.ones(shape, dtype))

    calls = []
    for each in widths:
        run, structs = piece.at(each)
        args = tuple(operand(s.shape, s.dtype) for s in structs)
        calls.append(Call(jax.jit(accelerate(run)).lower(*structs), args))
    return calls


def _types(args: tuple[Any, ...]) -> str:
    """`float32[64,32,32,3]`, and so on for each array."""
    return ", ".join(str(jax.typeof(x)) for x in jax.tree.leaves(args))


def _group_sizes(graph: ChannelGraph) -> dict[str, int]:
    return dict(zip(graph.names, graph.sizes.tolist(), strict=True))


def _rounding(record: Mapping[str, Any]) -> Rounding:
    relative = {int(m): r for m, r in record["relative"].items()}
    return Rounding(**{**record, "relative": relative})


def _table(record: Mapping[str, Any]) -> LatencyTable:
    arrays = ("kept_read", "kept_written", "seconds")
    layers = tuple(
        LayerTimes(
            layer["name"], tuple(layer["reads"]), tuple(layer["writes"]),
            *(np.array(layer[name]) for name in arrays),
        )
        for layer in record["layers"]
    )  # fmt: skip
    sums, whole = np.array(record["sums"]), np.array(record["whole"])
    return LatencyTable(**{**record, "layers": layers, "sums": sums, "whole": whole})
