"""What the rooms above put into the engine, which knows none of them: set once, by `jaxprune`.

The quickest forms of convolutions come from `kernels`, tables from `report`. These are no arguments
because those who need them have none to take: `str()` of an explanation, and a pruned network that
was loaded, whose first call compiles it. Nor can they be half set: Python imports `jaxprune`, which
sets them, before any module of the engine is there, and nothing sets them again. The defaults
serve an engine that was taken out of this package.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

accelerated: Callable[[Callable[..., Any]], Callable[..., Any]] = functools.partial
"""A function as it runs the quickest on the device at hand, where it is compiled and run."""
drawn: Callable[[Any], Any] = repr
"""What was found, for rich to print."""
text: Callable[[Any], str] = repr
"""What was found, as plain text."""
