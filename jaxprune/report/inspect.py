"""What `jaxprune inspect` shows: the channel graph of a model."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from jaxprune.graph.explain import Explanation


def show(name: str, inputs: str, found: Explanation, console: Console | None = None) -> None:
    """Prints what the graph found to the standard output, or to `console`.

    Args:
      name: of the model.
      inputs: types and shapes, as in `float32[1,32,32,3]`.
      found: by `graph.explain()`.
      console: where to.
    """
    console = console or Console(highlight=False)
    title = Text(name, style="bold").append(f" · {inputs}", style="bright_black")
    console.print(title, "", found, sep="\n")
