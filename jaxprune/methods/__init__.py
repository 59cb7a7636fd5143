"""The published methods, one file each, all behind one door (`contract.Method`), by name."""

from jaxprune.methods.batchnorm_scale import batchnorm_scale
from jaxprune.methods.contract import Method, Selection
from jaxprune.methods.fisher import fisher
from jaxprune.methods.genetic import genetic
from jaxprune.methods.geometric_median import geometric_median
from jaxprune.methods.greedy import greedy
from jaxprune.methods.l1 import l1
from jaxprune.methods.l2 import l2
from jaxprune.methods.random import random
from jaxprune.methods.taylor import taylor

METHODS: dict[str, Method] = {
    "genetic": genetic,
    "greedy": greedy,
    "random": random,
    "l1": l1,
    "l2": l2,
    "batchnorm_scale": batchnorm_scale,
    "geometric_median": geometric_median,
    "taylor": taylor,
    "fisher": fisher,
}


def get(name: str) -> Method:
    """The method of that name.

    Raises:
      ValueError: there is none; the message lists the names.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


__all__ = ["METHODS", "Method", "Selection", "get"]
