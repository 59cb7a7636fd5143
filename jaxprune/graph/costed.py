"""What was found in a function, with masks of it and what they leave of its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph import paths
from jaxprune.graph.arguments import require_groups
from jaxprune.graph.cost import Cost, Term, cost_at, evaluate
from jaxprune.graph.groups import Group

Masks = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class CostedGroups:
    """The coupled channel groups of a function, and their costs.

    Attributes:
      groups: by name. A group's name is the first variable axis that writes it, e.g.
        `params/conv1/kernel[3]`; it is the same for every batch size and JAX version.
      fixed: `path[axis]` → the primitive, the source line and why its channels are fixed.
      ordered: the groups whose units keep their order, see `permute` → the source line and why.
    """

    groups: dict[str, Group]
    fixed: dict[str, str]
    ordered: dict[str, str]
    _terms: list[Term] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The groups' names, in the order of `sizes` and of the last axis of `costs`."""
        return tuple(self.groups)

    @property
    def sizes(self) -> np.ndarray:
        """The groups' sizes in units, int (G,)."""
        return np.array([g.size for g in self.groups.values()])

    @property
    def kernels(self) -> set[str]:
        """The variables that are kernels of convolutions and products."""
        return {term.variable for term in self._terms if term.quantity == "macs"}

    def full_masks(self) -> dict[str, jax.Array]:
        """Masks that keep everything: per group float32 ones (units,)."""
        return {name: jnp.ones(g.size, jnp.float32) for name, g in self.groups.items()}

    def masks(self, dropped: Mapping[str, Sequence[int]]) -> dict[str, jax.Array]:
        """Masks that drop units by hand: group, or a pattern that names one group → units.

        Raises:
          ValueError: a name that is no group's or several groups', or what is no unit of it.
        """
        masks = self.full_masks()
        for pattern, units in dropped.items():
            name = self._group_called(pattern)
            size, numbers = self.groups[name].size, np.asarray(units)
            whole = numbers.ndim == 1 and (
                not numbers.size or np.issubdtype(numbers.dtype, np.integer)
            )
            odd = numbers[(numbers < 0) | (numbers >= size)].tolist() if whole else units
            if not whole or odd:
                raise ValueError(
                    f"group {name} has units 0 to {size - 1}, not {odd}: masks({{group: [unit, "
                    "…]}) lists the units that fall; masks of 0 and 1 are used as they are"
                )
            masks[name] = masks[name].at[numbers.astype(int)].set(0)
        return masks

    def _group_called(self, pattern: str) -> str:
        try:
            chosen = paths.select([pattern], self.groups)
        except ValueError as error:
            # The name of a variable tells where its channels are to be found, those first that it
            # makes.
            members = [(m, n) for n, g in self.groups.items() for m in g.members]
            members.sort(key=lambda member: member[0].role != "writes")
            places = {axis: f"fixed ({why})" for axis, why in self.fixed.items()}
            places |= {f"{m.path}[{m.axis}]": f"in the group {n}" for m, n in members}
            try:
                axis = paths.select([pattern], places)[0]
            except ValueError:
                raise error from None
            raise ValueError(
                f"{pattern!r} names no group: the channels of {axis} are {places[axis]}"
            ) from None
        if len(chosen) > 1:
            raise ValueError(
                f"{pattern!r} names {len(chosen)} groups, and units are those of one: "
                f"{paths.listed(chosen)}"
            )
        return chosen[0]

    def widths(self, masks: Masks) -> dict[str, int]:
        """The number of units that masks keep, per group."""
        return {name: int(np.sum(np.asarray(masks[name]) != 0)) for name in self.groups}

    def costs(self, widths: Any) -> dict[str, Any]:
        """Totals for many widths at once: int [..., G] → quantity → float64 [...].

        Widths on the device give totals there, differentiable.
        """
        return evaluate(self._terms, widths)

    def thinned(self, kept: Mapping[str, float]) -> Self:
        """The same groups with costs of kernels that keep these fractions of their entries."""
        terms = []
        for term in self._terms:
            if term.variable in kept and term.quantity != "activations":
                part = np.zeros((1, term.factors.shape[1]))
                part[0, 0] = kept[term.variable]
                term = dataclasses.replace(term, factors=np.concatenate([term.factors, part]))
            terms.append(term)
        return dataclasses.replace(self, _terms=terms)

    def cost(
        self, masks: Mapping[str, Any] | None = None, kept: Mapping[str, float] | None = None
    ) -> Cost:
        """The cost under masks, or under widths (group → int); of the whole network without.

        `kept` is, for kernels with blocks, the fraction of their entries that they keep: see
        `Pruned.kept`.
        """
        if masks is None:
            return cost_at(self._terms, self.sizes.astype(float), kept)
        require_groups(self.groups, masks)
        whole = [np.ndim(masks[name]) == 0 for name in self.groups]
        widths = masks if all(whole) else self.widths(masks)
        units = np.array([float(widths[name]) for name in self.groups])
        return cost_at(self._terms, units, kept)
