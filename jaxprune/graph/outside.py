"""What the rooms above put into the engine, which knows none of them: set once, on import.

`jaxprune` sets them: the quickest forms of convolutions from `kernels`, tables from `report`.
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
