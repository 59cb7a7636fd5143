"""The directions in which the loss of a network is curved most: its Hessian's eigenvectors.

The Hessian is only ever multiplied, `H v = d/dt ∇L(w + t v)`, so that it costs two gradients a
product; the eigenvectors are those of SciPy's Lanczos iteration.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

from jaxprune.batches import count_of, inputs_of
from jaxprune.problem import Problem
from jaxprune.wrappers import split_params


class Curvature(NamedTuple):
    """Leading eigenvalues of a Hessian, and where they point.

    Attributes:
      values: (k,), the largest first.
      directions: (k, N), orthonormal, over the parameters as `ravel_pytree` lays them out.
    """

    values: np.ndarray
    directions: np.ndarray

    def flat(self, vector: np.ndarray) -> np.ndarray:
        """The part (N,) of a vector (N,) that lies in none of the directions."""
        return vector - self.directions.T @ (self.directions @ vector)


def curvature(problem: Problem, count: int) -> Curvature:
    """The `count` largest eigenvalues of the Hessian of the mean loss over the problem's batches.

    With respect to what is trained (`params`), in evaluation mode; `problem.key` draws the start.

    Raises:
      ValueError: not fewer directions than parameters.
    """
    params, rest, join = split_params(problem.variables)
    flat, unravel = ravel_pytree(params)
    if not 0 < count < flat.size:
        raise ValueError(f"{count} directions of {flat.size} parameters: ask for 1 up to less")

    @jax.jit
    def product(vector: jax.Array, batch: Any) -> jax.Array:
        def loss(flat: jax.Array) -> jax.Array:
            out = problem.fn(join(unravel(flat), rest), inputs_of(batch))
            return problem.loss(out, batch)

        return jax.jvp(jax.grad(loss), (flat,), (vector,))[1]

    sizes = [count_of(inputs_of(batch)) for batch in problem.batches]

    def multiply(vector: np.ndarray) -> np.ndarray:
        total = np.zeros(flat.size)
        for size, batch in zip(sizes, problem.batches, strict=True):
            ahead = jnp.asarray(vector.reshape(-1), flat.dtype)
            total += size / sum(sizes) * np.asarray(product(ahead, batch), np.float64)
        return total

    shape = (flat.size, flat.size)
    operator = LinearOperator(shape, matvec=multiply, dtype=np.float64)  # type: ignore[call-arg]
    start = np.asarray(jax.random.normal(problem.key, flat.shape), np.float64)
    values, vectors = eigsh(operator, count, which="LA", v0=start, tol=1e-4)  # type: ignore[arg-type]
    return Curvature(values[::-1], vectors.T[::-1])
