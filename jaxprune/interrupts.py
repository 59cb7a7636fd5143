"""Ctrl-C while the command is still importing what it needs ends it, too.

Python raises it as an exception in whatever runs, and JAX has the garbage collector call a function
in which an exception vanishes: the command would go on. So it is the signal itself that ends the
command, until `cli.command` sets a handler of its own. A program that imports the package as a
library keeps what it has.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path


def is_command() -> bool:
    """Whether this process is `jaxprune` or `python -m jaxprune`, as its imports begin."""
    if sys.argv[:1] == ["-m"]:  # what Python has there while it looks for the module
        return sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] == ["jaxprune"]
    return bool(sys.argv) and Path(sys.argv[0]).stem == "jaxprune"


def end_by_signal() -> None:
    """Lets Ctrl-C end the command by the signal alone; not where it is ignored."""
    ours = threading.current_thread() is threading.main_thread() and is_command()
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


end_by_signal()
