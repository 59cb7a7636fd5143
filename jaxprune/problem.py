"""What a method is given, what it answers, and where its long work is kept.

    problem = Problem(graph, fn, variables, batches, Budget("params/8,macs/3"), key=key)
    selection = Genetic().prune(problem)

The ground floor of the methods: they see a `Problem` and nothing of training loops, run folders or
the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxprune.batches import Batches, labels_of
from jaxprune.budget import Budget, CostModel
from jaxprune.graph import ChannelGraph
from jaxprune.kernels.blocks import Blocks
from jaxprune.masks import Masks, zeroed
from jaxprune.wrappers import Until, Wrapper, same

Fn = Callable[..., Any]
"""`fn(variables, inputs)`, in evaluation mode."""
Metric = Callable[[Any, Any], jax.Array]
"""`metric(outputs, batch)`: the mean over the samples of the batch."""
Carry = TypeVar("Carry")


def cross_entropy(outputs: Any, batch: Any) -> jax.Array:
    """The default loss: softmax cross-entropy with the batch's integer labels."""
    logits = logits_of(outputs).astype(jnp.float32)
    labels = _labels_for(logits, batch)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(outputs: Any, batch: Any) -> jax.Array:
    """The default score: the fraction of samples whose largest logit is the label's."""
    logits = logits_of(outputs)
    return jnp.mean(jnp.argmax(logits, axis=-1) == _labels_for(logits, batch))


def _labels_for(logits: jax.Array, batch: Any) -> jax.Array:
    labels = jnp.asarray(labels_of(batch))
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"the default loss and score take integer labels of shape {logits.shape[:-1]} for "
            f"outputs of shape {logits.shape}, not {labels.dtype} of shape {labels.shape}; pass "
            "loss= and score= of your own"
        )
    return labels


def logits_of(outputs: Any) -> jax.Array:
    """The logits in a model's outputs: `.logits`, or the first array."""
    return outputs.logits if hasattr(outputs, "logits") else jax.tree.leaves(outputs)[0]


@dataclass(frozen=True)
class Retraining:
    """How a method trains within its work: as the run's fine-tune, but for this."""

    epochs: float = 1.0
    """Epochs of training."""
    learning_rate: float = 0.01
    """Its learning rate, which is constant."""
    steps: int | None = None
    """Steps at most, in place of epochs."""

    def __post_init__(self):
        for name in ("epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


_NOTHING = (
    "this method trains the network, and this problem has nothing to train with: prune it in a "
    "run (jaxprune run CONFIG --method ...)"
)


class Run:
    """Where long work is kept: here in memory, so that what is killed begins anew."""

    def loop(
        self, name: str, body: Callable[[Carry, int], Carry], carry: Carry, length: int
    ) -> Carry:
        """`for i in range(length): carry = body(carry, i)`.

        Args:
          name: of the work, unique within a method.
          body: (carry, i) → carry. It depends on these and on what the method was given alone.
          carry: a pytree of arrays whose structure and shapes the body keeps.
          length: how many steps.
        """
        for i in range(length):
            carry = body(carry, i)
        return carry

    def steps(self, config: Retraining) -> int:
        """How many steps a training of this config has, for schedules of a method's own.

        Raises:
          ValueError: there is nothing to train with.
        """
        raise ValueError(_NOTHING)

    def train(
        self,
        name: str,
        variables: Any,
        *,
        network: Wrapper = same,
        optimizer: Wrapper = same,
        config: Retraining | None = None,
        rounds: int = 1,
        teacher: Any = None,
        until: Until | int | None = None,
        state: Any = None,
    ) -> Any:
        """Trains the network, and returns a state with `step`, `params`, `state`, `variables`.

        Args:
          name: of the work, unique within a method.
          variables: `{"params": ..., **state}` to start from.
          network: wraps the network that is trained, `Network → Network`.
          optimizer: wraps the optimizer, `GradientTransformation → GradientTransformation`.
          config: what differs from the run's fine-tune.
          rounds: how many times `config.epochs` the whole training is.
          teacher: variables of the unpruned network, to distil from.
          until: where it ends: a number of `rounds` done, or a condition on the state; else at the
            end of its epochs. One compiled program serves a training that goes on in rounds.
          state: goes on from here instead of from `variables`.

        Raises:
          ValueError: there is nothing to train with.
        """
        raise ValueError(_NOTHING)


@dataclass(frozen=True)
class Problem:
    """A network to prune, the data to measure it with, and what is asked for.

    Attributes:
      graph: from `trace`.
      fn: `fn(variables, inputs)`, in evaluation mode.
      variables: the dense variables.
      batches: calibration batches, walked several times.
      budget: targets, or fixed widths (`Budget(widths=...)`).
      loss: lower is better.
      score: higher is better.
      key: of all that the method draws.
      heldout: batches that what chooses may read, where there are some apart from `batches`.
      run: where long work is kept.
      mesh: of the devices that share the measurements, where there are several.
      recalibrated: `fn` with the BatchNorm statistics that the variables it is given have on
        calibration images, as a run takes them anew after the cut; None where there is no such.
    """

    graph: ChannelGraph
    fn: Fn
    variables: Any
    batches: Batches
    budget: Budget
    loss: Metric = cross_entropy
    score: Metric = accuracy
    key: jax.Array = field(default_factory=lambda: jax.random.key(0))
    heldout: Batches | None = None
    run: Run = field(default_factory=Run)
    mesh: Mesh | None = None
    recalibrated: Fn | None = None

    @property
    def validation(self) -> Batches:
        """What loss and score are measured on: the held-out batches, where there are some."""
        return self.batches if self.heldout is None else self.heldout

    def at(self, variables: Any, masks: Masks | None = None) -> Problem:
        """The same problem of a network with other variables, those of dropped units being zero."""
        if masks is not None:
            variables = zeroed(self.graph, variables, masks)
        return replace(self, variables=variables)

    def prunable(self) -> list[str]:
        """The groups that the budget lets get narrower."""
        return self.budget.prunable(self.graph)


class Selection(NamedTuple):
    """What a method answers.

    Attributes:
      masks: per group (units,), exactly 0 or 1.
      variables: the dense variables; others than before where weights were refitted or trained.
        What blocks do not keep is zero in them.
      blocks: kernel's path → structure finer than channels, of the kernel as the masks leave it.
      figures: name of a figure → group → a number or a curve, for the report.
    """

    masks: Masks
    variables: Any
    figures: Mapping[str, Mapping[str, Any]] = {}
    blocks: Mapping[str, Blocks] = {}


class Method:
    """A published method: a subclass is a frozen dataclass whose fields are its hyper-parameters.

    Attributes:
      meets_budget: whether it meets any budget within reach; not where its paper decides.
      keeps_scopes: whether it ranks units over the network, each of `budget.scopes` by itself.
      within_kernels: whether it leaves all channels and prunes within kernels: what a budget says
        of channels is refused.
    """

    meets_budget: ClassVar[bool] = True
    keeps_scopes: ClassVar[bool] = False
    within_kernels: ClassVar[bool] = False

    def require(self, model: CostModel, budget: Budget) -> None:
        """Refuses, before any work, a budget that it cannot meet.

        Raises:
          ValueError: targets beyond reach, or scopes where it ranks no units over the network.
        """
        budget.require_feasible(model)
        if budget.scopes and not self.keeps_scopes:
            raise ValueError(
                "budget.scopes: they are for methods that rank units over the network (l1, taylor, "
                f"…), which {type(self).__name__} does not; use budget.limits"
            )

    def require_counted(self, budget: Budget) -> None:
        """Refuses, before a device is measured, what would be measured of widths in vain.

        Raises:
          ValueError: a latency, or widths that suit the device, where it leaves all channels.
        """
        name = type(self).__name__
        if self.within_kernels and "latency" in budget.factors:
            raise ValueError(
                f"budget.targets: {budget.targets!r} asks for latency, which is measured over the "
                f"widths of layers, and {name} prunes within kernels: ask for macs"
            )
        if self.within_kernels and budget.round_to == "measured":
            raise ValueError(
                f"budget.round_to: 'measured' tells widths that suit the device, and {name} prunes "
                "within kernels: leave it out"
            )

    def prune(self, problem: Problem) -> Selection:
        """Chooses what stays of a network."""
        raise NotImplementedError
