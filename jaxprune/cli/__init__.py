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
from typing import Any, NoReturn

from jaxprune.cli import marks, networks, runs
from jaxprune.cli.arguments import HELP
from jaxprune.memory import keep_freed_memory

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


_STAGES = ("train", "sensitivity", "prune", "finetune", "evaluate")
_COMMANDS: dict[str, Callable[[Sequence[str]], Any]] = {
    "run": runs.run,
    **{name: partial(runs.stage, name) for name in _STAGES},
    "status": runs.status,
    "supervise": runs.supervise,
    "watermark": marks.watermark,
    "compare": runs.compare,
    "inspect": networks.inspect,
    "import": networks.import_,
    "export": networks.export,
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
