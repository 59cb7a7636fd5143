"""`jaxprune watermark`: embed a message in a run, extract it from whatever network there is."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from jaxprune.cli.arguments import HELP, Parser, stoppable, without_accelerator


def watermark(arguments: Sequence[str]) -> None:
    """`jaxprune watermark embed | extract`: a mark into a run, and out of an architecture."""
    verbs = {"embed": _embed, "extract": _extract}
    verb = arguments[0] if arguments else ""
    if verb in HELP:
        print("\n".join(f"jaxprune watermark {name} --help" for name in verbs))
    elif verb in verbs:
        verbs[verb](arguments[1:])
    else:
        raise ValueError("say what to do: jaxprune watermark embed, or jaxprune watermark extract")


def _mark_options(parser: argparse.ArgumentParser, *, embed: bool) -> None:
    """What embedding and extraction have in common."""
    add = parser.add_argument
    add("--key-file", metavar="FILE", default="", help="the secret key, 16 bytes or more")
    add("--message", metavar="HEX", required=embed, help="the message, in hexadecimal digits")
    add("--code", choices=("none", "repetition", "reed_solomon"), help="how it bears errors")
    add("--strength", metavar="N", type=int, help="errors that the code corrects; 1 by default")
    add("--check", metavar="N", type=int, help="bits that tell a wrong key; 8 by default")
    add("--step", metavar="N", type=int, help="channels between two values; 1 by default")


def _embed(arguments: Sequence[str]) -> None:
    parser = Parser(
        "watermark embed",
        "Marks the trained network of a run by how many channels of each layer are pruned, and "
        "fine-tunes it, in a run of its own.",
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run whose network is trained")
    add("--out", metavar="DIR", required=True, help="the folder of the marked run")
    _mark_options(parser, embed=True)
    add("--rate", metavar="R", type=float, help="fraction pruned but for the mark; else the budget")
    add("--first", choices=("key", "importance"), help="who names the candidates; key by default")
    add("--pool", metavar="P", type=float, help="candidates for each channel that goes; 2")
    given = parser.parse_args(arguments)
    options = {n: v for n, v in vars(given).items() if v is not None and n not in ("run", "out")}
    from jaxprune import pipeline
    from jaxprune.methods import Watermark
    from jaxprune.pipeline import marking
    from jaxprune.report import table
    from jaxprune.report import watermark as report

    method = Watermark(**options)
    with stoppable():
        opened = pipeline.open_run(marking.marked(given.run, method, given.out))
        sizes = {name: group.size for name, group in opened.graph.groups.items()}
        report.show_plan(sizes, method.scheme)
        pipeline.share_training(opened, given.run)
        table.show(pipeline.run(opened.config))


def _extract(arguments: Sequence[str]) -> None:
    parser = Parser(
        "watermark extract", "Reads the mark of a network from its widths, whatever its weights."
    )
    add = parser.add_argument
    add(
        "network",
        metavar="NETWORK",
        help="a run, a saved network, a file of PyTorch's weights, or module:attribute",
    )
    _mark_options(parser, embed=False)
    add("--bits", metavar="N", type=int, help="of the message, where neither it nor a run says so")
    add("--model", metavar="NAME", help="what it was pruned from; runs and saved networks know it")
    add("--input", metavar="SHAPE", action="append", default=[], help="of that: see inspect")
    add("--arg", metavar="KEY=VALUE", action="append", default=[], help="likewise")
    add("--protect", metavar="PATTERN", action="append", default=[], help="likewise")
    given = parser.parse_args(arguments)
    without_accelerator()
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    from jaxprune.methods.watermark import Scheme, bytes_of
    from jaxprune.pipeline import marking
    from jaxprune.report import watermark as report

    claimed = None if given.message is None else bytes_of(given.message)
    known = marking.scheme_of(given.network) or Scheme(0)
    options = {n: getattr(given, n) for n in ("bits", "code", "strength", "check", "step")}
    scheme = known._replace(**{n: v for n, v in options.items() if v is not None})
    if claimed is not None:
        scheme = scheme._replace(bits=8 * len(claimed))
    marking.require_scheme(scheme)
    of = marking.architecture(given.network, given.model, given.input, given.arg, given.protect)
    reading = marking.extract(of, given.key_file, scheme)
    report.show_reading(reading, marking.require_fit(reading, scheme, claimed))
