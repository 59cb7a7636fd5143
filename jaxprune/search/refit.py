"""Kept channels judged after a least-squares refit of the consumer's kernel.

With the kernel of the kept channels free, the layer's output error is no longer `pᵀ G p` but what
the kept inputs cannot explain of the dropped ones: a Schur complement of the layer's Hessian `H`. A
set of channels costs a Cholesky factor of the kept block, so this scores finalists and single
exchanges, not populations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve, cholesky, solve_triangular

from jaxprune.reconstruction import DAMPING

_dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Regression(NamedTuple):
    """That of one consumer of the group: its Hessian `H = E[x xᵀ]`, kernel, weight in the sum."""

    hessian: Array  # [C k, C k], the k taps of a channel side by side
    kernel: Array  # [O, C k]
    weight: float | Array = 1.0

    def taps(self, channels: int) -> int:
        """The k of a kernel over that many channels."""
        return self.kernel.shape[1] // channels


def _taps_of(channels: Array, taps: int) -> Array:
    return (channels[:, None] * taps + jnp.arange(taps)[None]).reshape(-1)


def _damped(hessian: Array, rows: Array) -> Array:
    """The block of H over `rows`, with the damping on its diagonal."""
    eye = jnp.eye(rows.size, dtype=hessian.dtype)
    return hessian[jnp.ix_(rows, rows)] + _ridge(hessian) * eye


def _ridge(hessian: Array) -> Array:
    return DAMPING * jnp.mean(jnp.diagonal(hessian))


def _split(mask: Array, keep: int) -> tuple[Array, Array]:
    kept = jnp.nonzero(mask, size=keep)[0]
    dropped = jnp.nonzero(~mask, size=mask.size - keep)[0]
    return kept, dropped


def refit_error(mask: Array, consumer: Regression, keep: int) -> Array:
    """Output error of a kept set S with the refitted kernel, without the consumer's weight.

    `min over W' on S of tr((W - W') H (W - W')ᵀ) = tr(W_D (H_DD - H_DS H_SS⁻¹ H_SD) W_Dᵀ)`, D the
    dropped channels, but for what damping leaves unexplained (second order in it).

    Args:
      mask: boolean [C] with `keep` ones.
      consumer: the layer.
      keep: K, static.
    """
    hessian, kernel, _ = consumer
    kept, dropped = (_taps_of(i, consumer.taps(mask.size)) for i in _split(mask, keep))
    lost = kernel[:, dropped]
    before = jnp.sum(_dot(lost, hessian[jnp.ix_(dropped, dropped)]) * lost)
    factor = cholesky(_damped(hessian, kept), lower=True)
    explained = solve_triangular(factor, _dot(hessian[jnp.ix_(kept, dropped)], lost.T), lower=True)
    correction = solve_triangular(factor, explained, lower=True, trans=1)
    # The damped objective at its minimum, less the damping's own share.
    own = _ridge(hessian) * jnp.sum(jnp.square(correction))
    return before - jnp.sum(jnp.square(explained)) - own


@partial(jax.jit, static_argnames=("keep",))
def total_error(mask: Array, consumers: Sequence[Regression], keep: int) -> Array:
    """Weighted sum of `refit_error` over a group's consumers."""
    return jnp.sum(jnp.stack([c.weight * refit_error(mask, c, keep) for c in consumers]))


def _inverse(mask: Array, consumer: Regression, keep: int) -> tuple[Array, Array, Array]:
    """Rows of the kept taps, the inverse of their block, and the refitted kernel there."""
    rows = _taps_of(jnp.nonzero(mask, size=keep)[0], consumer.taps(mask.size))
    block = _damped(consumer.hessian, rows)
    inverse = cho_solve((cholesky(block, lower=True), True), jnp.eye(rows.size, dtype=block.dtype))
    shift = _dot(
        _dot(jnp.where(_spread(mask, consumer), 0, consumer.kernel), consumer.hessian)[:, rows],
        inverse,
    )
    return rows, inverse, consumer.kernel[:, rows] + shift


def _spread(mask: Array, consumer: Regression) -> Array:
    return jnp.repeat(mask, consumer.taps(mask.size))


def _gains(mask: Array, consumer: Regression, keep: int) -> Array:
    """What bringing one dropped channel back takes off the error, [C]: exact up to damping.

    `tr(B_i S_i⁻¹ B_iᵀ)` with the residual's correlation `B = (W - W') H` and the Schur block
    `S_i = H_ii - H_iS H_SS⁻¹ H_Si`.
    """
    taps = consumer.taps(mask.size)
    hessian = consumer.hessian
    rows, inverse, refitted = _inverse(mask, consumer, keep)
    residual = consumer.kernel.at[:, rows].add(-refitted)
    left = _dot(residual, hessian).reshape(-1, mask.size, taps)
    cross = hessian[rows].reshape(rows.size, mask.size, taps)
    solved = _dot(inverse, hessian[rows]).reshape(cross.shape)
    own = jnp.einsum("cicj->cij", hessian.reshape(mask.size, taps, mask.size, taps))
    schur = own - jnp.einsum("nci,ncj->cij", cross, solved, precision=jax.lax.Precision.HIGHEST)
    eye = jnp.eye(taps, dtype=schur.dtype)[None]
    schur = schur + _ridge(hessian) * eye
    # A kept channel's block is zero but for rounding; nobody looks at its gain, but it must be
    # finite.
    schur = jnp.where(mask[:, None, None], eye, schur)
    return _weighted_squares(left, schur)


def _losses(mask: Array, consumer: Regression, keep: int) -> Array:
    """What dropping one kept channel adds to the error, [keep] in the order of the kept channels.

    Optimal brain surgeon's block form: `tr(W'_j ([H_SS⁻¹]_jj)⁻¹ W'_jᵀ)`, W' the refitted kernel.
    """
    taps = consumer.taps(mask.size)
    _, inverse, refitted = _inverse(mask, consumer, keep)
    blocks = jnp.einsum("cicj->cij", inverse.reshape(keep, taps, keep, taps))
    return _weighted_squares(refitted.reshape(-1, keep, taps), blocks)


def _weighted_squares(rows: Array, blocks: Array) -> Array:
    """`tr(R_c S_c⁻¹ R_cᵀ)` per channel: rows [O, C, k], positive definite blocks [C, k, k] -> [C].

    Gauss-Jordan elimination of all blocks together; LAPACK would be called channel by channel, and
    its threads cost more than a 9 by 9 block is worth.
    """
    taps = blocks.shape[-1]
    eye = jnp.broadcast_to(jnp.eye(taps, dtype=blocks.dtype), blocks.shape)

    def eliminate(i, pair):
        row = pair[:, i] / pair[:, i, i, None]
        return (pair - pair[:, :, i, None] * row[:, None, :]).at[:, i].set(row)

    pair = jax.lax.fori_loop(0, taps, eliminate, jnp.concatenate([blocks, eye], axis=-1))
    solved = jnp.einsum("oci,cij->ocj", rows, pair[..., taps:], precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(rows * solved, axis=(0, 2))


@partial(jax.jit, static_argnames=("keep", "max_swaps"))
def refit_swaps(
    mask: Array, consumers: Sequence[Regression], keep: int, max_swaps: int
) -> tuple[Array, Array]:
    """Exchanges channels while the error after refit falls, at most `max_swaps` times.

    An exchange brings back the channel that gains most and then drops, of K + 1, the one that is
    missed least; both changes are block-inverse formulas, exact up to damping.

    Args:
      mask: boolean [C] with `keep` ones.
      consumers: the group's consumers; their errors are added with their weights.
      keep: K, static, below C.
      max_swaps: bound on the exchanges, static.

    Returns:
      The mask, and its error after refit.
    """

    def exchange(state):
        mask, error, _, steps = state
        gains = sum(c.weight * _gains(mask, c, keep) for c in consumers)
        wider = mask.at[jnp.argmax(jnp.where(mask, -jnp.inf, gains))].set(True)
        losses = sum(c.weight * _losses(wider, c, keep + 1) for c in consumers)
        out = jnp.nonzero(wider, size=keep + 1)[0][jnp.argmin(losses)]
        found = wider.at[out].set(False)
        found_error = total_error(found, consumers, keep)
        better = found_error < error * (1 - 1e-6)
        mask = jnp.where(better, found, mask)
        return mask, jnp.where(better, found_error, error), ~better, steps + 1

    start = (mask, total_error(mask, consumers, keep), jnp.zeros((), bool), 0)
    state = jax.lax.while_loop(lambda s: ~s[2] & (s[3] < max_swaps), exchange, start)
    return state[0], state[1]


@partial(jax.jit, static_argnames=("keep",))
def best_of(masks: Array, consumers: Sequence[Regression], keep: int) -> Array:
    """Of masks [M, C] of `keep` ones each, the one with the lowest error after refit."""
    errors = jax.lax.map(lambda mask: total_error(mask, consumers, keep), masks)
    return masks[jnp.argmin(errors)]
