"""The command line: `jaxprune run CONFIG [--field value ...]`, and each stage of a run by itself.

Everything that is slow to import waits until a command needs it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jaxprune.config import RunConfig
    from jaxprune.graph import Pruned

from jaxprune.memory import keep_freed_memory
from jaxprune.terminal import HELP, Parser, stoppable, without_accelerator

_USAGE = """\
usage: jaxprune run CONFIG [--method NAME] [--from RUN] [--field value ...]
       jaxprune COMMAND RUN

Structured channel pruning for JAX.

a whole run:
  run CONFIG          train, prune and fine-tune as a config says, or go on
                      where the run was; --from RUN takes the trained network
                      of another run of the same training

its stages, one by one; each goes on where it was, and says what it lacks:
  train CONFIG|RUN    train the unpruned network, or take it with --from RUN
  prune RUN           choose what stays, by the config's method
  finetune RUN        cut and fine-tune it; then train the config's controls
  evaluate RUN        accuracies on the test images, costs, latency; with
                      --heldout accuracies on the held-out images alone,
                      with --behaviour what pruning changes beside accuracy

what there is:
  sensitivity RUN     measure and draw how much each group alone would cost
  status RUN          where a run is, and which command goes on
  compare RUN ...     runs side by side; --paired, --behaviour, --plot FILE,
                      --json FILE
  supervise RUN       what notices unknown inputs, before and after pruning;
                      --case NAME ..., --images N, --list
  watermark embed RUN
  watermark extract NETWORK
                      a mark in the widths of the layers; --key-file FILE,
                      --message HEX, see watermark embed --help
  inspect MODEL       what can be pruned in a model, what it costs, what is
                      fixed and why; --input SHAPE, see inspect --help

weights of PyTorch:
  import FILE         those of a shipped VGG or ResNet as a saved network;
                      --model NAME, --out FOLDER
  export RUN|FOLDER   the pruned network of a run, or a saved one, with a list
                      of its widths; --to torch, --out FILE

CONFIG is a Python file that defines `config`, or a config.json; RUN is the
folder of a run. COMMAND CONFIG --help shows every field of that config, with
its value and its meaning; with --method NAME those of that method, which is one
of
  {methods}

options:
  --help, -h          this text
  --version           the version
  --debug             show the traceback of an error

examples:
  jaxprune run configs/digits_vgg.py
  jaxprune run configs/digits_vgg.py --method.search.population 256 --out runs/b
  jaxprune run configs/digits_vgg.py --method taylor --from runs/b --out runs/c
  jaxprune train configs/digits_vgg.py --out runs/d && jaxprune status runs/d
  jaxprune compare runs/b runs/c --paired --plot methods.png
  jaxprune inspect mypackage.models:make_model --input 1,224,224,3
"""

_FULL = ("ENOSPC", "EDQUOT", "EFBIG")


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point of the `jaxprune` command.

    Exits with 0; with 2 after one line on the standard error where the user's input is at fault;
    with 130 where the user stopped it, and with 143 where SIGTERM did and a training was saved.
    Other errors keep their traceback: they are ours.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    # A table that the terminal cannot spell must not end a finished run with an error.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    keep_freed_memory()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            _dispatch(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        if debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in _FULL:
            message += "; make room, and the same command goes on"
        _fail(message)
    except KeyboardInterrupt:
        print("jaxprune: stopped", file=sys.stderr)
        sys.exit(130)


def command() -> NoReturn:
    """The `jaxprune` command: `main`, then the end of the process.

    A process that was stopped ends at once: the interpreter's own end would wait for, and has been
    seen to crash in, threads of what it was stopped in.
    """
    # Not where it is ignored, as of a job that a shell put into the background.
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL):
        signal.signal(signal.SIGINT, _interrupted)
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if code in (130, 128 + signal.SIGTERM):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        raise
    sys.exit(0)


def _interrupted(*_: Any) -> NoReturn:
    """Ctrl-C: the end, whatever runs. What a run has saved is whole at every moment.

    Raised as an exception it would be lost in a callback, as in those that JAX has the garbage
    collector call, and the run would go on.
    """
    show_cursor = "\033[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
    os.write(2, f"{show_cursor}\njaxprune: stopped\n".encode())
    os._exit(130)


def run(arguments: Sequence[str]) -> None:
    """`jaxprune run CONFIG ...`: the whole pipeline, then its summary as a table."""
    source, arguments = _option(arguments, "--from")
    config = parse(arguments)
    from jaxprune import pipeline
    from jaxprune.report import table

    with stoppable():
        if source is not None:
            pipeline.share_training(pipeline.open_run(config), source)
        table.show(pipeline.run(config))


def _stage(name: str, arguments: Sequence[str]) -> None:
    """`jaxprune train RUN` and the like: one stage, then where the run is."""
    source, arguments = _option(arguments, "--from") if name == "train" else (None, arguments)
    parts = [a for a in ("--heldout", "--behaviour") if name == "evaluate" and a in arguments]
    config = parse([a for a in arguments if a not in parts], name)
    from jaxprune import pipeline
    from jaxprune.files import plain
    from jaxprune.report import behaviour, overview, paired, table

    with stoppable():
        opened = pipeline.open_run(config)
        if source is not None:
            pipeline.share_training(opened, source)
        if "--behaviour" in parts:
            return behaviour.show({str(opened.folder): pipeline.behave(opened)})
        if "--heldout" in parts:
            answers = pipeline.evaluate_heldout(opened)
            return paired.show(paired.Pairs({str(opened.folder): answers}, {}))
        result = getattr(pipeline, name)(opened)
        if name == "finetune":
            pipeline.control(opened)
    if name == "evaluate":
        table.show(result)
    else:
        overview.show(plain(pipeline.status(opened.folder)))
    if name == "prune":
        table.show_groups(pipeline.pruned_groups(opened))


def status(arguments: Sequence[str]) -> None:
    """`jaxprune status RUN`: where a run is."""
    parser = Parser("status", "Where a run is: reads its folder alone, at any time.")
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    folder = parser.parse_args(arguments).run
    without_accelerator()
    from jaxprune import pipeline
    from jaxprune.files import plain
    from jaxprune.report import overview

    overview.show(plain(pipeline.status(folder)))


def compare(arguments: Sequence[str]) -> None:
    """`jaxprune compare RUN RUN ...`: runs side by side."""
    parser = Parser("compare", "Runs side by side: what their configs differ in, and the results.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of runs")
    parser.add_argument("--json", metavar="FILE", help="write the comparison as JSON too")
    parser.add_argument("--plot", metavar="FILE", help="draw accuracy against cost as a PNG")
    parser.add_argument(
        "--paired",
        action="store_true",
        help="the differences between networks over the same test images, with intervals; of one "
        "run or more",
    )
    parser.add_argument(
        "--heldout", action="store_true", help="with --paired: over the held-out images instead"
    )
    parser.add_argument(
        "--behaviour",
        action="store_true",
        help="classes, calibration, corruptions, agreement, supervisors and watermark, as "
        "`jaxprune evaluate RUN --behaviour` found them; of one run or more",
    )
    given = parser.parse_args(arguments)
    if given.heldout and not given.paired:
        raise ValueError("--heldout says over which images --paired compares; give --paired, too")
    without_accelerator()
    from jaxprune.files import write_json
    from jaxprune.report import behaviour
    from jaxprune.report import compare as comparison

    runs = comparison.read(given.runs)
    part = "heldout" if given.heldout else "test"
    pairs = comparison.pairs(runs, part) if given.paired else None
    behaves = {run.label: behaviour.read(run.folder) for run in runs if given.behaviour}
    if given.json:
        record = comparison.record(runs, pairs)
        write_json(given.json, record | ({"behaviour": behaves} if behaves else {}))
    if given.plot:
        comparison.plot(given.plot, runs)
    comparison.show(runs, pairs)
    if behaves:
        behaviour.show(behaves)


def supervise(arguments: Sequence[str]) -> None:
    """`jaxprune supervise RUN`: supervisors on the networks of a run."""
    parser = Parser(
        "supervise",
        "How well supervisors tell unknown inputs from test images, for the unpruned and the "
        "pruned network of a run; in supervision.json and plots/supervise_*.png.",
    )
    parser.add_argument("run", metavar="RUN", nargs="?", help="the folder of a run")
    parser.add_argument(
        "--case", metavar="NAME", nargs="+", default=[], help="these alone, of those in --list"
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=int,
        help="test images, and as many outliers and training images to fit to; 1000 by default",
    )
    parser.add_argument(
        "--list", action="store_true", help="the cases, and those of the paper with their data"
    )
    given = parser.parse_args(arguments)
    from jaxprune.report import supervision as report
    from jaxprune.supervisors import cases

    if given.list:
        report.show_cases(cases.WORDS, cases.PAPER)
        return
    if given.run is None:
        raise ValueError("name the folder of a run: jaxprune supervise RUN; or see --list")
    from jaxprune import pipeline

    opened = pipeline.open_run(given.run)
    images = pipeline.SUPERVISED if given.images is None else given.images
    report.show(pipeline.supervise(opened, given.case, images), cases.WORDS)


def watermark(arguments: Sequence[str]) -> None:
    """`jaxprune watermark embed | extract`: a mark into a run, and out of an architecture."""
    from jaxprune import cli_watermark

    cli_watermark.watermark(arguments)


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

    network = interop.unpruned(interop.from_torch(given.file, given.model), given.model)
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
    import jax

    return f"{sum(leaf.size for leaf in jax.tree.leaves(network.variables['params'])):,} parameters"


def parse(arguments: Sequence[str], command: str = "run") -> RunConfig:
    """The config that the arguments after a command name, with its fields overridden.

    Raises:
      ValueError: no config is named first, or a value is out of range.
      FileNotFoundError: there is no such config, or a folder without a run.
      SystemExit: after `--help`, or with tyro's own words on a field that is not known.
    """
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in HELP):
        raise ValueError(
            "name a config first, or the folder of a run: "
            f"jaxprune {command} configs/digits_vgg.py [--field value]"
        )
    import tyro

    from jaxprune.config import RunConfig, load

    asked_in_general = arguments[0] in HELP
    path, overrides = ("CONFIG", arguments) if asked_in_general else (arguments[0], arguments[1:])
    if asked_in_general:
        default = RunConfig()
    elif os.path.isdir(path):
        from jaxprune import pipeline

        default = pipeline.config_of(path)
    else:
        default = load(path)
    default, overrides = _with_method(default, list(overrides))
    return tyro.cli(RunConfig, prog=f"jaxprune {command} {path}", default=default, args=overrides)


def _option(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The value of an option, `NAME VALUE` or `NAME=VALUE`, and the arguments without it.

    Raises:
      ValueError: the option stands last, without a value.
    """
    rest = list(arguments)
    for i, argument in enumerate(rest):
        flag, equals, value = argument.partition("=")
        if flag == name:
            if not equals and i + 1 == len(rest):
                raise ValueError(f"{name} needs a value after it")
            value = value if equals else rest[i + 1]
            return value, rest[:i] + rest[i + (1 if equals else 2) :]
    return None, rest


def _with_method(config: RunConfig, arguments: list[str]) -> tuple[RunConfig, list[str]]:
    """`--method NAME` picks the method whose fields the other arguments set.

    Raises:
      ValueError: no name, or an unknown one; a field of another method.
    """
    import dataclasses

    from jaxprune.methods import METHODS, get, name_of

    name, arguments = _option(arguments, "--method")
    if name is not None and name_of(config.method) != name:
        config = dataclasses.replace(config, method=get(name)())
    chosen = name_of(config.method)
    fields = {field.name for field in dataclasses.fields(config.method)}  # pyright: ignore
    for argument in arguments:
        if argument.startswith("--method."):
            field = argument[len("--method.") :].partition("=")[0].partition(".")[0]
            field = field.replace("-", "_")
            if field not in fields:
                owners = [
                    name
                    for name, kind in METHODS.items()
                    if field in {f.name for f in dataclasses.fields(kind)}  # pyright: ignore
                ]
                whose = f"; it is one of {', '.join(owners)}" if owners else ""
                known = ", ".join(sorted(fields)) or "none"
                raise ValueError(
                    f"--method.{field}: the method {chosen} has no such field{whose}. Its fields: "
                    f"{known}"
                )
    return config, arguments


_STAGES = ("train", "sensitivity", "prune", "finetune", "evaluate")
_COMMANDS: dict[str, Callable[[Sequence[str]], Any]] = {
    "run": run,
    **{name: partial(_stage, name) for name in _STAGES},
    "status": status,
    "supervise": supervise,
    "watermark": watermark,
    "compare": compare,
    "inspect": inspect,
    "import": import_,
    "export": export,
}


def _dispatch(arguments: Sequence[str]) -> None:
    """Runs the command that the first argument names."""
    if not arguments:
        print(_usage(), file=sys.stderr)
        sys.exit(2)
    command, *rest = arguments
    if command in HELP:
        print(_usage())
    elif command == "--version":
        from importlib.metadata import version

        print(f"jaxprune {version('jaxprune')}")
    elif command in _COMMANDS:
        _COMMANDS[command](rest)
    else:
        raise ValueError(f"unknown command {command!r}; there are: {', '.join(_COMMANDS)}")


def _usage() -> str:
    """The general help, with the methods that there are, at 80 columns."""
    import textwrap

    from jaxprune.methods import METHODS

    return _USAGE.format(methods=textwrap.fill(", ".join(METHODS), 78).replace("\n", "\n  "))


def _warn(message: Warning | str, *_: Any) -> None:
    """A warning as one line on the standard error."""
    _say("33", "warning", str(message))


def _fail(message: str) -> None:
    """One line on the standard error, and exit code 2."""
    _say("1;31", "error", message)
    sys.exit(2)


def _say(colour: str, kind: str, message: str) -> None:
    plain = not sys.stderr.isatty() or "NO_COLOR" in os.environ
    label = f"jaxprune: {kind}:"
    print(label if plain else f"\033[{colour}m{label}\033[0m", message, file=sys.stderr)
