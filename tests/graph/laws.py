"""The laws of the engine, as assertions, and variables to hold them on."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph import paths, trace
from jaxprune.graph.compiled import quick_options
from jaxprune.graph.permute import positions
from jaxprune.graph.rounding import apart, nudged, precision_of


def compiled(fn, *args, level=0):
    """`fn` compiled in the quickest way for arguments like these: it runs once or twice."""
    options = quick_options() | {"xla_backend_optimization_level": level}
    return jax.jit(fn).lower(*args).compile(compiler_options=options)


def fill(structs, seed=0):
    """Random variables of the given shapes that neither explode nor vanish in a deep network."""
    rng = np.random.default_rng(seed)

    def draw(key_path, leaf):
        name = paths.name(key_path).rpartition("/")[2]
        if name == "kernel":
            value = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            value = 0.3 * rng.normal(size=leaf.shape)
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, structs)


def random_masks(graph, seed=0, least=1):
    """0/1 masks with a random number of units kept in each group."""
    rng = np.random.default_rng(seed)
    masks = {}
    for name, group in graph.groups.items():
        order = rng.permutation(group.size)
        masks[name] = (order < rng.integers(min(least, group.size), group.size + 1)).astype(float)
    return masks


def near(a, b, tolerance):
    """Holds two trees of arrays together, relative to the largest entry of each array."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(paths.leaves(a), jax.tree.leaves(b), strict=True):
        if x.dtype == jax.dtypes.float0:
            continue
        assert x.shape == y.shape, (path, x.shape, y.shape)
        assert x.dtype == y.dtype, (path, x.dtype, y.dtype)
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        worst = np.abs(x - y).max(initial=0) / max(1.0, np.abs(x).max(initial=0))
        assert worst <= tolerance, (path, worst)


def value_and_grad(fn):
    """The outputs of `fn(variables, ...)` and the gradient of a number made of the first one."""

    def number(variables, *args):
        out = fn(variables, *args)
        first = jax.tree.leaves(out)[0].astype(float)
        weights = jnp.cos(jnp.arange(first.size)).reshape(first.shape)
        return jnp.sum(weights * jnp.sin(first)), out

    return jax.value_and_grad(number, has_aux=True, allow_int=True)


def assert_laws(graph, fn, variables, *args, seed=0, tolerance=1e-9):
    """Masked equals sliced; full masks and another order change nothing; gradients included."""
    masks = random_masks(graph, seed)
    full = {name: np.ones_like(mask) for name, mask in masks.items()}
    pruned = graph.slice(variables, masks)

    def under(variables, masks, *args):
        return value_and_grad(lambda v, *a: graph.masked(fn)(v, masks, *a))(variables, *args)

    def hold(level):
        masked = compiled(under, variables, masks, *args, level=level)
        own = compiled(value_and_grad(fn), variables, *args, level=level)
        small = value_and_grad(pruned.wrap(fn))
        sliced = compiled(small, pruned.variables, *args, level=level)
        (_, out), grad = own(variables, *args)
        (_, full_out), full_grad = masked(variables, full, *args)
        (_, masked_out), masked_grad = masked(variables, masks, *args)
        (_, sliced_out), sliced_grad = sliced(pruned.variables, *args)
        near(full_out, out, tolerance)
        near(full_grad, grad, tolerance)
        first = (0, out), grad
        assert_reordered_alike(graph, fn, own, variables, args, first, seed, tolerance)
        near(pruned.cut_state(masked_out), sliced_out, tolerance)
        near(pruned.cut(masked_grad), sliced_grad, tolerance)

    try:
        hold(level=0)
    except AssertionError:
        # Without optimisation XLA gets the gradient of some maxima wrong: level 1 decides.
        hold(level=1)
    return pruned


def random_orders(graph, seed=0):
    """A permutation of the units of each group that can be reordered."""
    rng = np.random.default_rng(seed)
    return {n: rng.permutation(g.size) for n, g in graph.groups.items() if n not in graph.ordered}


def assert_reordered_alike(graph, fn, own, variables, args, first, seed=0, tolerance=1e-9):
    """A network with reordered units computes the same, and its gradients are reordered.

    Args:
      graph: of the network.
      fn: the network.
      own: its `value_and_grad`, compiled.
      variables: in their own order.
      args: the other arguments.
      first: what `own` gives for them.
      seed: of the orders.
      tolerance: of `near`.
    """
    orders = random_orders(graph, seed)
    shapes = {path: leaf.shape for path, leaf in paths.leaves(variables)}
    places = positions(graph.groups, shapes, orders)

    def reordered(out, grad):
        leaves = []
        for path, leaf in paths.leaves(out):  # among the outputs are new values of variables
            variable = paths.longest_suffix(path, shapes) or ""
            for axis, along in places.get(variable, {}).items():
                leaf = jnp.take(leaf, along, axis)
            leaves.append(leaf)
        return jax.tree.structure(out).unflatten(leaves), graph.permute(grad, orders)

    def beyond(a, b):
        found = apart(a, b)
        return found.difference - tolerance * max(1.0, found.scale)

    same = graph.permute(variables, orders)
    (_, out), grad = own(same, *args)
    expected = reordered(first[0][1], first[1])
    try:
        near((out, grad), expected, tolerance)
    except AssertionError:
        # Sums run in another order, which a network may blow up as it does any other rounding.
        rng = np.random.default_rng(seed)
        eps = float(jnp.finfo(precision_of(jax.make_jaxpr(fn)(variables, *args))).eps)
        worst = jax.tree.map(beyond, (out, grad), expected)
        for _ in range(3):
            (_, out_), grad_ = own(nudged(same, eps, rng), *args)
            moved = jax.tree.map(lambda a, b: apart(a, b).difference, (out, grad), (out_, grad_))
            worst = jax.tree.map(lambda left, step: left - 10 * step, worst, moved)
        if not all(left <= 0 for left in jax.tree.leaves(worst)):
            raise


def prune_again(graph, fn, variables, args, *, rounds, seed, state=None):
    """The network after some random prunings, and its graph: (graph, fn, variables).

    Each time what is left of a group has its name, and the kept positions are the first network's.
    None where a network is left in which nothing is prunable.
    """
    first, own = variables, fn
    for i in range(rounds):
        masks = random_masks(graph, seed + i)
        pruned = graph.slice(variables, masks)
        fn, variables = pruned.wrap(own), pruned.variables
        near(pruned.cut(first), variables, 0)
        try:
            graph = trace(fn, variables, *args, state=state)
        except ValueError as error:
            assert "nothing in this function is prunable" in str(error)
            return None
        for name, group in graph.groups.items():
            assert group.size <= pruned.widths[name], (name, group.size, pruned.widths)
    return graph, fn, variables


def assert_laws_of_network(network):
    """The laws on a network of `networks.random_network`'s form; nothing prunable holds too.

    Every fourth network is pruned before, once or twice.
    Rounding decides the gradient of a maximum over values that are equal (as after a ReLU), so a
    network whose own gradient is another one when it runs equation by equation proves nothing.
    """
    from networks import example  # which fills its variables by this module

    fn, variables, x = example(network["blocks"], network["head"], network["seed"])

    def state(out):
        return out[1]

    graph = trace(fn, variables, x, state=state)
    if (seed := network["seed"]) % 4 == 0:
        rounds = 1 + seed // 4 % 2
        left = prune_again(graph, fn, variables, (x,), rounds=rounds, seed=seed, state=state)
        if left is None:
            return
        graph, fn, variables = left
    try:
        assert_laws(graph, fn, variables, x, seed=network["seed"])
    except AssertionError:
        pruned = graph.slice(variables, random_masks(graph, network["seed"]))
        if rounding_decides(fn, variables, x):
            return
        if rounding_decides(pruned.wrap(fn), pruned.variables, x):
            return
        raise


def rounding_decides(fn, variables, x):
    """Whether a function's own gradient differs between compiled and equation by equation."""
    number = value_and_grad(fn)
    together = compiled(number, variables, x, level=1)(variables, x)[1]
    with jax.disable_jit():
        apart = number(variables, x)[1]
    return any(
        not np.allclose(a, b, rtol=0, atol=1e-6)
        for a, b in zip(*map(jax.tree.leaves, (together, apart)), strict=True)
        if a.dtype != jax.dtypes.float0
    )
