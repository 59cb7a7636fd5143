"""PyTorch's `state_dict`s and the variables of the shipped models, in both directions.

The shipped models compute what PyTorch's do: they pad strided convolutions and the stem's pooling
alike on both sides, and their BatchNorm has PyTorch's constants. So only names and layouts change,
the order in which a map is flattened, where shortcut "A" has its zeros, and that a block-diagonal
convolution is one in groups there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import models
from jaxprune.graph import Pruned, paths, trace
from jaxprune.interop import files, layout, names
from jaxprune.interop.grouped import Groups, groups_in, groups_of
from jaxprune.interop.layout import Variable, Zeros
from jaxprune.interop.names import Module
from jaxprune.models import ResNet

Arrays = dict[str, np.ndarray]

_COUNTER = "num_batches_tracked"
_WRAPPERS = ("state_dict", "model", "net")
_HEADS = ("fc", "linear")  # of ImageNet and of CIFAR
_SHORTCUTS = ("downsample", "shortcut")


def from_torch(
    weights: Mapping[str, Any] | str | os.PathLike[str],
    model: str | Module,
    *,
    input_shape: tuple[int, int, int] | None = None,
    zeros: Zeros | None = None,
    record: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The variables of a shipped VGG or ResNet from the weights of the same network in PyTorch.

    VGGs have torchvision's names: `features.N`, and `classifier` or, of ImageNet,
    `classifier.0/3/6`. ResNets have torchvision's, where the last layer may also be `linear` and a
    shortcut `shortcut`. A `module.` before all names is dropped, and counters are left out. A
    convolution's bias that the model here does not have goes into the BatchNorm after it; where no
    convolution there has one, those here are zero.

    Weights do not tell of layers without any: a CIFAR VGG here averages the map that its last stage
    leaves, without a pooling before.

    Args:
      weights: a mapping from names to NumPy arrays or PyTorch tensors, one that holds it under
        `state_dict`, `model` or `net`, or a file for `read`.
      model: a name in `jaxprune.models.NAMES`; widths, classes, and a CIFAR ResNet's form of
        shortcut are those of the weights then. Or a module, which they have to fit.
      input_shape: of one image, (height, width, channels), where they have to fit that as well.
      zeros: where shortcut "A" adds channels there: half of them before those that there are and
        half after (`around`), or all of them `after`, as the models here do; where it is not given,
        as the record says, and else around.
      record: what `to_torch` gave with the weights, where they have convolutions in groups: these
        become kernels with zeros. Of a file, the `.json` beside it where it is not given.

    Returns:
      `{"params": ..., "batch_stats": ...}` in float32.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: names that are missing, unknown, or of another shape or type, all of them listed
        with what is expected; weights that are not finite; a file that cannot be read; a model
        that PyTorch's names are not known for.
    """
    source = "these weights"
    if not isinstance(weights, Mapping):
        source, file = f"the weights in {os.fspath(weights)}", weights
        weights = files.read(file)
        record = files.read_record(file) if record is None else record
    record = record or {}
    arrays = _arrays(weights)
    module = names.require(model)
    if isinstance(model, str):
        module = _like(module, arrays)
    layers = _layers(module, arrays)
    shape = input_shape or _guessed_shape(module, layers, arrays)
    tree = layout.shapes(module, shape)
    variables = layout.variables(module, tree, layers, zeros or _zeros_of(record))

    expected = {v.name: v.shape for v in variables}
    groups = {f"{n}.weight": g for n, g in groups_in(record, expected).items()}
    expected |= {name: (*g.shape, *expected[name][2:]) for name, g in groups.items()}
    biases = _biases_before_norms(layers)
    if arrays.keys().isdisjoint(biases):
        arrays |= {b: np.zeros(expected[b], np.float32) for b in biases if b in expected}
    folded = {bias: mean for bias, mean in biases.items() if bias not in expected}
    optional = {bias: expected[mean] for bias, mean in folded.items()}
    if wrong := list(_differences(arrays, expected, optional)):
        title = model if isinstance(model, str) else f"this {type(model).__name__}"
        raise ValueError(
            f"{source} do not fit {title}:\n  " + ";\n  ".join(wrong) + ";\nname the model that "
            f"they are of ({', '.join(names.known())}), with its widths, classes and shortcuts"
        )
    if broken := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise ValueError(
            f"{source} hold NaN or infinity in {', '.join(broken)}: take those of a network that "
            "is whole"
        )
    for bias, mean in folded.items():
        if bias in arrays:
            arrays[mean] = arrays[mean] - arrays[bias]
    arrays |= {name: g.dense(arrays[name]) for name, g in groups.items()}
    leaves = [jnp.asarray(v.here(arrays[v.name])) for v in variables]
    return jax.tree.structure(tree).unflatten(leaves)


def to_torch(
    network: Pruned | Mapping[str, Any], model: str | None = None
) -> tuple[Arrays, dict[str, Any]]:
    """A shipped VGG or ResNet, pruned or not, as PyTorch's `state_dict` and what to build for it.

    Args:
      network: what `slice`, `prune` or `load` gave, or variables.
      model: its name in `jaxprune.models.NAMES`; found by its layers where it is not given.

    Returns:
      Float32 arrays under torchvision's names, those of a CIFAR ResNet with `linear` and
      `shortcut`; and a record with `model`, the `widths` of every convolution and linear layer by
      name, in the order of the forward pass, and for shortcut "A" the `zeros` of each block that
      has it: how many channels it adds before and after those that there are. Convolutions whose
      blocks lie on a diagonal are in `groups`: their weight is (O, I/G, height, width), and the
      record has `{"groups": G}` by name, with `reads` where the channels `x[:, reads]` are read,
      and `writes` where its results are `y[:, writes]`. All zeros of shortcuts come after the
      channels then, so that none of these is moved.

    Raises:
      ValueError: a network of another model, or of none that PyTorch's names are known for.
    """
    tree = network.project(network.variables) if isinstance(network, Pruned) else network
    name, module, _ = _model_of(tree, model)
    layers = _layers(module, ())
    structures = network.blocks if isinstance(network, Pruned) else {}
    variables = layout.variables(module, tree, layers)
    if _groups(variables, tree, structures):
        variables = layout.variables(module, tree, layers, "after")
    groups = _groups(variables, tree, structures)
    state = {}
    for v, leaf in zip(variables, jax.tree.leaves(tree), strict=True):
        array = v.there(np.asarray(leaf, np.float32))
        array = groups[v.name].compact(array) if v.name in groups else array
        # Contiguous, since safetensors writes what lies in memory.
        state[v.name] = np.ascontiguousarray(array)
    widths = {
        n: len(state[f"{n}.weight"]) for n in layers.values() if f"{n}.running_mean" not in state
    }
    counters = {
        f"{n}.{_COUNTER}": np.zeros((), np.int64) for n in layers.values() if n not in widths
    }
    record: dict[str, Any] = {"model": name, "widths": widths}
    if isinstance(module, ResNet) and module.shortcut == "A":
        record["zeros"] = {
            layers[f"{block}/conv1"].rpartition(".")[0]: (
                (0, wide - narrow) if groups else layout.zeros_around(narrow, wide)
            )
            for block, narrow, wide in layout.padded(module, tree)
        }
    if groups:
        record["groups"] = {n.removesuffix(".weight"): g.record() for n, g in groups.items()}
    return state | counters, record


def unpruned(
    variables: Mapping[str, Any],
    model: str | None = None,
    record: Mapping[str, Any] | None = None,
) -> Pruned:
    """A shipped VGG or ResNet of which no channel is cut, for `jaxprune.save`.

    Args:
      variables: such as `from_torch` gave.
      model: as for `to_torch`.
      record: what `to_torch` gave with the weights, where they have convolutions in groups: these
        are blocks then.

    Raises:
      ValueError: as `to_torch`; groups that do not fit the network.
    """
    _, module, shape = _model_of(variables, model)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    graph = trace(module.apply, variables, image)
    record = record or {}
    places = layout.variables(module, variables, _layers(module, ()), _zeros_of(record))
    groups = groups_in(record, {v.name: v.shape for v in places})
    blocks = {
        path: groups[name].blocks(v)
        for v, (path, _) in zip(places, paths.leaves(variables), strict=True)
        if v.name.endswith(".weight") and (name := v.name.removesuffix(".weight")) in groups
    }
    return graph.slice(variables, graph.full_masks(), blocks)


def _groups(
    variables: Sequence[Variable], tree: Any, structures: Mapping[str, Any]
) -> dict[str, Groups]:
    """The groups of what has blocks on a diagonal, by the weights' names there."""
    places = zip(variables, paths.leaves(tree), strict=True)
    found = {v.name: groups_of(structures.get(path), v) for v, (path, _) in places}
    return {name: groups for name, groups in found.items() if groups is not None}


def _zeros_of(record: Mapping[str, Any]) -> Zeros:
    """Where shortcut "A" has its zeros, by the record of `to_torch`."""
    added = list(record.get("zeros", {}).values())
    return "after" if added and not any(before for before, _ in added) else "around"


def _model_of(tree: Any, model: str | None) -> tuple[str, Module, tuple[int, int, int]]:
    """The model that has these variables: its name, itself, and a shape of its images."""
    shapes = {path: tuple(jnp.shape(leaf)) for path, leaf in paths.leaves(tree)}
    here = {layout.split(path)[0] for path in shapes}
    candidates = names.known() if model is None else {model: names.require(model)}
    for name, module in candidates.items():
        if isinstance(module, ResNet) and any(n.endswith("shortcut_conv") for n in here):
            module = module.clone(parent=None, shortcut="B")
        first, *rest = _layers(module, ())
        if here != {first, *rest}:
            continue
        module = models.from_variables(module, tree).clone(
            parent=None, num_classes=shapes["params/classifier/kernel"][-1]
        )
        flat = shapes.get("params/fc1/kernel", (0,))[0]
        image = _input_shape(module, shapes[f"params/{first}/kernel"][-2], flat)
        like = layout.shapes(module, image)
        if shapes == {path: leaf.shape for path, leaf in paths.leaves(like)}:
            return name, module, image
    raise ValueError(
        f"these are not the variables of {'one' if model is None else repr(model)}, of the models "
        f"that PyTorch's names are known for: {', '.join(names.known())}"
    )


def _arrays(weights: Mapping[str, Any]) -> Arrays:
    """The `state_dict` as float32 arrays, without what holds it, prefixes and counters."""
    for wrapper in _WRAPPERS:
        if isinstance(weights.get(wrapper), Mapping):
            weights = weights[wrapper]
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return {
        name: _array(value) for name, value in weights.items() if not name.endswith(f".{_COUNTER}")
    }


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor; NumPy has no bfloat16
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    array = np.asarray(value)
    return array.astype(np.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _like(module: Module, arrays: Arrays) -> Module:
    """The module with the form of shortcut, the widths and the classes of the weights.

    A width is what most arrays of its layers say, so that one of another shape stands out.
    """
    if isinstance(module, ResNet) and any(_is_shortcut(name) for name in arrays):
        module = module.clone(parent=None, shortcut="B")
    layers = _layers(module, arrays)
    widths = {}
    for group in names.tied(module):
        both = {layers.get(at) for layer in group for at in (layer, names.norm_of(layer))}
        widths |= dict.fromkeys(group, _width(both, arrays, module.layers()[group[0]]))
    classes = _width({layers["classifier"]}, arrays, module.num_classes)
    return module.clone(parent=None, widths=widths, num_classes=classes)


def _width(layers: Collection[str | None], arrays: Arrays, usual: int) -> int:
    sizes = Counter(
        array.shape[0]
        for name, array in arrays.items()
        if array.ndim and len(array) and name.rpartition(".")[0] in layers
    )
    return max(sizes, key=lambda width: (sizes[width], width == usual), default=usual)


def _layers(module: Module, given: Collection[str]) -> dict[str, str]:
    """The layers' names there, for which there is more than one habit."""
    cifar = isinstance(module, ResNet) and not module.imagenet
    heads = [name for name in _HEADS if any(g.startswith(f"{name}.") for g in given)]
    shortcuts = [name for name in _SHORTCUTS if any(f".{name}." in g for g in given)]
    return names.layers(
        module,
        head=heads[0] if heads else _HEADS[cifar],
        shortcut=shortcuts[0] if shortcuts else _SHORTCUTS[cifar],
    )


def _is_shortcut(name: str) -> bool:
    return any(f".{shortcut}." in name for shortcut in _SHORTCUTS)


def _guessed_shape(module: Module, layers: dict[str, str], arrays: Arrays) -> tuple[int, int, int]:
    stem = arrays.get(f"{next(iter(layers.values()))}.weight", np.empty(()))
    first = arrays.get(f"{layers.get('fc1')}.weight", np.empty(()))
    return _input_shape(
        module, stem.shape[1] if stem.ndim == 4 else 3, first.shape[1] if first.ndim == 2 else 0
    )


def _input_shape(module: Module, channels: int, flat: int) -> tuple[int, int, int]:
    """Of images that the weights may be for.

    Args:
      module: the model.
      channels: of the images.
      flat: how much the first linear layer of an ImageNet VGG reads.
    """
    if isinstance(module, ResNet):
        return (32, 32, channels)
    side, positions = module.smallest_side, 1
    if module.hidden:
        width = module.layers()[names.last_convolution(module)]
        positions = flat // width if flat and flat % width == 0 else 49
    return (side, side * positions, channels)


def _biases_before_norms(layers: dict[str, str]) -> dict[str, str]:
    """The biases that convolutions before a BatchNorm may have there, and its mean for each."""
    return {
        f"{layers[layer]}.bias": f"{layers[norm]}.running_mean"
        for layer in layers
        if (norm := names.norm_of(layer)) != layer and norm in layers
    }


def _differences(
    arrays: Arrays, expected: Mapping[str, tuple[int, ...]], optional: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    """One line for each name that is missing, unknown, or of another shape or type."""
    for name in sorted(expected.keys() | arrays.keys()):
        array, shape = arrays.get(name), expected.get(name, optional.get(name))
        if array is None:
            yield f"{name}: missing, expected {shape}"
        elif shape is None:
            yield f"{name}: found {array.shape}, no such name is expected"
        elif array.shape != shape:
            line = f"{name}: found {array.shape}, expected {shape}"
            fewer = array.ndim == 4 and array.shape[1] and shape[1] > array.shape[1]
            groups = fewer and array.shape[::2] == shape[::2] and shape[1] % array.shape[1] == 0
            yield f"{line}, or record= with its groups" if groups else line
        elif array.dtype != np.float32:
            yield f"{name}: found {array.dtype}, expected floating-point numbers"
