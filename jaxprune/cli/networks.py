"""The commands on networks: what can be pruned in one, and weights from and for PyTorch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxprune.graph import Pruned

from jaxprune.cli.arguments import Parser, without_accelerator


def inspect(arguments: Sequence[str]) -> None:
    """`jaxprune inspect MODEL --input SHAPE`: what the channel graph of a model found."""
    parser = Parser(
        "inspect",
        "The coupled channel groups of a model with what a unit costs, and what is fixed and why.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="module:attribute, importable from here: a module (Flax, Haiku, Equinox, Keras), "
        "(module, variables), (fn, variables), or a callable without arguments that gives one of "
        "these; or a shipped model's name, such as resnet50",
    )
    parser.add_argument(
        "--input",
        metavar="SHAPE",
        action="append",
        required=True,
        help="an input's shape with its batch, such as 1,224,224,3; once for each. Of a shipped "
        "model height,width,channels",
    )
    parser.add_argument(
        "--dtype", action="append", default=[], help="float32 by default; for all inputs, or each"
    )
    parser.add_argument(
        "--arg",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a keyword that the model is called with, such as train=False. Of a shipped model an "
        "option, such as num_classes=10 (1000 by default)",
    )
    parser.add_argument(
        "--protect", metavar="PATTERN", action="append", default=[], help="what has to stay whole"
    )
    parser.add_argument(
        "--allow-inexact", action="store_true", help="open LayerNorm and RMSNorm over channels"
    )
    parser.add_argument("--json", metavar="FILE", help="write it as JSON too")
    given = parser.parse_args(arguments)
    without_accelerator()
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    from jaxprune.files import plain, write_json
    from jaxprune.frontends import named
    from jaxprune.report import inspect

    inputs = named.structs(given.input, given.dtype)
    found = named.named_graph(
        given.model,
        inputs,
        arguments=dict(map(named.keyword, given.arg)),
        protect=given.protect,
        allow_inexact=given.allow_inexact,
    ).explain()
    shapes = named.describe(inputs)
    if given.json:
        write_json(given.json, {"model": given.model, "input": shapes, **plain(found)})
    inspect.show(given.model, shapes, found)


def import_(arguments: Sequence[str]) -> None:
    """`jaxprune import FILE --model NAME --out FOLDER`: PyTorch weights as a saved network."""
    parser = Parser(
        "import",
        "Weights of PyTorch as a saved network, for jaxprune.load. A run takes them with "
        "--model.weights FILE instead.",
    )
    parser.add_argument("file", metavar="FILE", help=".safetensors; with PyTorch also .pt, .pth")
    parser.add_argument(
        "--model", metavar="NAME", required=True, help="the shipped model that they are of: vgg16"
    )
    parser.add_argument("--out", metavar="FOLDER", required=True, help="where it is saved")
    given = parser.parse_args(arguments)
    without_accelerator()
    from jaxprune import checkpoint, interop

    variables = interop.from_torch(given.file, given.model)
    network = interop.unpruned(variables, given.model, interop.read_record(given.file))
    checkpoint.save(given.out, network)
    print(f"{given.out}: {given.model}, {_parameters(network)}")


def export(arguments: Sequence[str]) -> None:
    """`jaxprune export RUN|FOLDER --to torch --out FILE`: a pruned network for PyTorch."""
    parser = Parser(
        "export",
        "A pruned network as weights under PyTorch's names, with a list of its widths beside them.",
    )
    parser.add_argument("network", metavar="RUN|FOLDER", help="a run, or a saved network")
    parser.add_argument("--to", required=True, choices=("torch",), help="what it is written for")
    parser.add_argument(
        "--out", metavar="FILE", required=True, help="FILE.safetensors; the widths in FILE.json"
    )
    given = parser.parse_args(arguments)
    without_accelerator()
    from jaxprune import checkpoint, interop

    folder = given.network
    if os.path.isfile(os.path.join(folder, "config.json")):
        folder = os.path.join(folder, "pruned")
        if not os.path.exists(folder):
            raise FileNotFoundError(
                f"{given.network} does not have pruned yet: run `jaxprune finetune "
                f"{given.network}` first"
            )
    network = checkpoint.load(folder)
    state, record = interop.to_torch(network)
    interop.write(given.out, state, record)
    print(f"{given.out}: {record['model']}, {_parameters(network)}")


def _parameters(network: Pruned) -> str:
    """How many there are, entries of kernels that no block keeps not among them."""
    from jaxprune.graph import paths

    kept, leaves = network.kept(), paths.leaves({"params": network.variables["params"]})
    count = sum(round(kept.get(path, 1.0) * leaf.size) for path, leaf in leaves)
    return f"{count:,} parameters"
