"""Losses of training and distillation, all in float32.

Axes: `B` batch, `K` classes; a map is `[B, H*W]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jaxprune.train.network import Output


@dataclass(frozen=True)
class DistillConfig:
    """How a teacher guides the student, beside the labels."""

    attention: float = 1e3
    """Weight of attention transfer: the loss has `attention / 2` times the mean squared distance
    of the normalised attention maps, summed over stages. 0 turns it off.
    The fewer positions a map has, the more it weighs: 1e3 is for last maps of about 8 x 8; where
    they are 2 x 2, as in a VGG of CIFAR, it drowns the labels, and 10 did not."""

    kl: float = 0.0
    """Weight of the softened divergence `T² KL(teacher || student)`. 0 turns it off."""

    temperature: float = 4.0
    """Temperature `T` of the softened divergence."""

    def __post_init__(self):
        for field, value in (("attention", self.attention), ("kl", self.kl)):
            if not value >= 0:
                raise ValueError(f"DistillConfig.{field} is a weight of at least 0, got {value}")
        if not self.temperature > 0:
            raise ValueError(
                f"DistillConfig.temperature has to be positive, got {self.temperature}"
            )


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Mean cross-entropy of logits `[B, K]` with labels `[B]`.

    `smoothing` moves that part of each label's mass evenly onto all classes.
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets).mean()


def attention_transfer(student: Sequence[jax.Array], teacher: Sequence[jax.Array]) -> jax.Array:
    """Distance of a student's attention maps from a teacher's: one map `[B, H*W]` a stage.

    `sum_j mean((Q_S^j / ||Q_S^j||_2 - Q_T^j / ||Q_T^j||_2)^2)` with `Q = sum_c |A_c|^2`, the mean
    over the batch and positions: the mean-squared form of attention transfer, Zagoruyko & Komodakis
    2017 (arXiv 1612.03928). That the pruning of Hu et al. 2018 (arXiv 1805.11394) uses this formula
    is reconstructed; its structure is confirmed.

    Raises:
      ValueError: no maps, or another number or size of maps in student and teacher.
    """
    if len(student) != len(teacher) or not student:
        raise ValueError(
            "attention transfer compares the stages of student and teacher one to one, but the "
            f"student has {len(student)} attention maps and the teacher {len(teacher)}; give both "
            "networks the same stages or set DistillConfig.attention=0"
        )
    for stage, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if s.shape != t.shape:
            raise ValueError(
                f"attention map {stage} is {s.shape} in the student and {t.shape} in the teacher; "
                "pruning keeps these sizes, so the two are other architectures: choose stages of "
                "equal height and width or set DistillConfig.attention=0"
            )
    distances = [
        jnp.mean(jnp.square(_normalised(s) - _normalised(t)))
        for s, t in zip(student, teacher, strict=True)
    ]
    return jnp.sum(jnp.stack(distances))


def softened_kl(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """`T² KL(softmax(z_T / T) || softmax(z_S / T))` of logits `[B, K]`, mean over the batch.

    Hinton, Vinyals & Dean 2015 (arXiv 1503.02531); `T²` keeps its gradient's scale next to the
    cross-entropy's.

    Raises:
      ValueError: logits of other shapes.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's logits are {student.shape} and the teacher's {teacher.shape}; "
            "distillation needs the same classes, or DistillConfig.kl=0"
        )
    log_s = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    log_t = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    divergence = jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1)
    return temperature**2 * divergence.mean()


def objective(
    student: Output,
    labels: jax.Array,
    teacher: Output | None = None,
    distill: DistillConfig | None = None,
    smoothing: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What training minimises, and its terms by name.

    `cross_entropy + attention / 2 * attention_transfer + kl * softened_kl`; a term is computed only
    where there is a teacher and its weight is not 0. The terms are given unweighted.
    """
    terms = {"cross_entropy": cross_entropy(student.logits, labels, smoothing)}
    loss = terms["cross_entropy"]
    if teacher is not None:
        distill = distill or DistillConfig()
        if distill.attention:
            terms["attention"] = attention_transfer(student.maps, teacher.maps)
            loss += distill.attention / 2 * terms["attention"]
        if distill.kl:
            terms["kl"] = softened_kl(student.logits, teacher.logits, distill.temperature)
            loss += distill.kl * terms["kl"]
    return loss, terms


def _normalised(attention_map: jax.Array) -> jax.Array:
    """Each row over its L2 norm; a row of zeros (a dead stage) stays zero, gradient included."""
    rows = attention_map.astype(jnp.float32)
    squares = jnp.sum(jnp.square(rows), axis=-1, keepdims=True)
    alive = squares > 0
    return jnp.where(alive, rows * jax.lax.rsqrt(jnp.where(alive, squares, 1.0)), 0.0)
