"""The published methods, one file each, by name; each is a `jaxprune.problem.Method`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from jaxprune.methods.cacp import CACP
from jaxprune.methods.compensation import Compensation
from jaxprune.methods.criteria import (
    L1,
    L2,
    BatchNormScale,
    Criterion,
    Fisher,
    GeometricMedian,
    Random,
    Taylor,
)
from jaxprune.methods.directional import SDprun
from jaxprune.methods.genetic import Genetic
from jaxprune.methods.greedy import Greedy
from jaxprune.methods.group_fisher import GroupFisher
from jaxprune.methods.lasso import Lasso
from jaxprune.methods.pivoting import Pivoting
from jaxprune.methods.probabilistic import SPP
from jaxprune.methods.unification import Unification
from jaxprune.methods.uniform import UCP
from jaxprune.methods.watermark import Watermark
from jaxprune.problem import Method, Problem, Selection

METHODS: dict[str, type[Method]] = {
    "genetic": Genetic,
    "group_fisher": GroupFisher,
    "ucp": UCP,
    "spp": SPP,
    "sdprun": SDprun,
    "lasso": Lasso,
    "compensation": Compensation,
    "cacp": CACP,
    "pivoting": Pivoting,
    "unification": Unification,
    "greedy": Greedy,
    "random": Random,
    "l1": L1,
    "l2": L2,
    "batchnorm_scale": BatchNormScale,
    "geometric_median": GeometricMedian,
    "taylor": Taylor,
    "fisher": Fisher,
    "watermark": Watermark,
}


def get(name: str) -> type[Method]:
    """The class of the method of that name.

    Raises:
      ValueError: there is none; the message lists the names.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


def name_of(method: Method) -> str:
    """The name of a method of `METHODS`.

    Raises:
      ValueError: it is none of them.
    """
    for name, kind in METHODS.items():
        if type(method) is kind:
            return name
    raise ValueError(
        f"a run's method is one of jaxprune.methods, such as jaxprune.methods['l1'](), not "
        f"{method!r}; one of your own goes to jaxprune.prune"
    )


def as_method(method: str | Method | type[Method] | Callable[[Problem], Selection]) -> Method:
    """A method from what a user gives: its name or class, itself, or a function of a problem.

    Raises:
      ValueError: an unknown name.
      TypeError: something else.
    """
    if isinstance(method, str):
        return get(method)()
    if isinstance(method, Method):
        return method
    if isinstance(method, type) and issubclass(method, Method):
        return method()
    if callable(method):
        return _Own(method)
    raise TypeError(
        f"a method is a name of {', '.join(METHODS)}, a jaxprune.Method, or a function of a "
        f"jaxprune.Problem that gives a jaxprune.Selection; not a {type(method).__name__}"
    )


@dataclass(frozen=True)
class _Own(Method):
    """A user's own function of a problem, which may read whatever the budget says."""

    keeps_scopes: ClassVar[bool] = True

    function: Callable[[Problem], Selection]

    def prune(self, problem: Problem) -> Selection:
        """Calls it."""
        return self.function(problem)


__all__ = [
    "CACP", "L1", "L2", "METHODS", "SPP", "UCP", "BatchNormScale", "Compensation", "Criterion",
    "Fisher", "Genetic", "GeometricMedian", "Greedy", "GroupFisher", "Lasso", "Method",
    "Pivoting", "Random", "SDprun", "Selection", "Taylor", "Unification", "Watermark",
    "as_method", "get", "name_of",
]  # fmt: skip
