"""What follows the weights of a pruned network: the states of all optimizers, in all libraries."""

import inspect
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from laws import near

from jaxprune.graph import paths, trace

os.environ.setdefault("KERAS_BACKEND", "jax")

SIZES = {"a": (3, 6), "b": (6,), "c": (6, 3)}  # few shapes: each operation is compiled for each


def fn(variables, x):
    v = variables["params"]
    return jnp.tanh(x @ v["a"] + v["b"]) @ v["c"]


def example():
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in SIZES.items()}
    variables, x = {"params": params}, jnp.ones((2, 3))
    graph = trace(fn, variables, x)
    pruned = graph.slice(variables, graph.masks({"a": [0, 2, 3]}))

    def gradient(seed):
        """A gradient that is zero at the dropped units' places, as under masks."""
        draw = np.random.default_rng(seed)
        whole = {name: draw.normal(size=s).astype(np.float32) for name, s in SIZES.items()}
        for path, leaf in whole.items():
            for axis, kept in pruned.positions(f"params/{path}").items():
                gone = np.setdiff1d(np.arange(leaf.shape[axis]), kept)
                np.moveaxis(leaf, axis, 0)[gone] = 0
        return {"params": jax.tree.map(jnp.asarray, whole)}

    return variables, pruned, gradient


VARIABLES, PRUNED, GRADIENT = example()


def everywhere(value):
    return lambda tree: jax.tree.map(lambda _: value, tree)


ARGUMENTS = {
    "learning_rate": 0.01, "decay": 0.9, "step_size": 0.1, "step_size_fn": lambda count: 0.1,
    "inner": optax.adam(0.1), "fast_optimizer": optax.adam(0.1), "optimizer": optax.adam(0.1),
    "base_optimizer": optax.adam(0.1), "adv_optimizer": optax.sgd(0.1), "tx": optax.adam(0.1),
    "seed": 0, "key": 0, "sync_period": 2, "slow_step_size": 0.5, "clipping": 0.1,
    "threshold": 1.0, "max_norm": 1.0, "max_delta": 1.0, "eta": 0.1, "gamma": 0.1,
    "max_consecutive_errors": 2, "should_transform_fn": lambda **_: True,
    "mask": everywhere(True), "freeze_mask": everywhere(False), "measure_name": "moving",
    "measure": lambda updates: updates, "transforms": {"a": optax.adam(0.1)},
    "param_labels": everywhere("a"), "l2_norm_clip": 1.0, "noise_multiplier": 1.0,
    "f": lambda updates, params: updates, "max_backtracking_steps": 3, "max_linesearch_steps": 3,
}  # fmt: skip
SPECIAL = {
    "chain": lambda: optax.chain(optax.clip(1.0), optax.adam(0.1)),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(1.0)), ("adam", optax.adam(0.1))),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(0.1),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.adam)(0.1),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(lambda u, p: u),
}


def transformations():
    """Every function of optax that makes a transformation, by name."""
    found = {}
    for module in (optax, optax.contrib):
        for name in dir(module):
            make = getattr(module, name)
            if name.startswith("_") or not callable(make) or inspect.isclass(make):
                continue
            try:
                signature = inspect.signature(make)
            except ValueError:
                continue
            if "GradientTransformation" in str(signature.return_annotation):
                found[name] = make, signature
    return found


def made(name):
    if name in SPECIAL:
        return SPECIAL[name]()
    make, signature = transformations()[name]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [
        p.name for p in signature.parameters.values() if p.default is p.empty and p.kind in kinds
    ]
    return make(**{name: ARGUMENTS[name] for name in needed})


REFUSED = {
    "flatten": "one vector",
    "lbfgs": "diff_params_memory.*start its state anew",
    "scale_by_lbfgs": "diff_params_memory.*start its state anew",
    "galore": "start its state anew",
    "scale_by_galore": "start its state anew",
}
# What looks at more than one entry at a time (norms, random draws, line searches), and what takes
# more than gradients.
JOINT = """
adafactor adaptive_grad_clip add_noise centralize clip_by_block_rms clip_by_global_norm
differentially_private_aggregate dpsgd dadapt_adamw fromage lamb lars mechanize momo momo_adam
muon noisy_sgd normalize normalize_by_update_norm novograd polyak_sgd prodigy sam
scale_by_backtracking_linesearch scale_by_distance_over_gradients scale_by_muon
scale_by_novograd scale_by_param_block_norm scale_by_param_block_rms scale_by_polyak
scale_by_sm3 scale_by_stddev scale_by_trust_ratio scale_by_zoom_linesearch sm3 sophia
conditionally_mask conditionally_transform reduce_on_plateau lookahead
""".split()


def step(state, params, optimizer, gradient):
    """One step: the new parameters and the new state."""
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("name", sorted(transformations()))
def test_the_state_of_every_transformation_of_optax(name):
    optimizer = made(name)
    state = optimizer.init(VARIABLES)
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            PRUNED.cut(state)
        return
    wanted = jax.eval_shape(optimizer.init, PRUNED.variables)
    small = PRUNED.cut(state)
    assert jax.tree.structure(small) == jax.tree.structure(wanted)
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, wanted)
    if name in JOINT:
        return
    params, state = step(state, VARIABLES, optimizer, GRADIENT(1))
    small = step(PRUNED.cut(state), PRUNED.cut(params), optimizer, PRUNED.cut(GRADIENT(2)))
    params, state = step(state, params, optimizer, GRADIENT(2))
    near((PRUNED.cut(params), PRUNED.cut(state)), small, 1e-6)


def two_layers(width, kept):
    variables = {"a": jnp.ones((140, width)), "b": jnp.ones((width, 140))}
    graph = trace(lambda v, x: jnp.tanh(x @ v["a"]) @ v["b"], variables, jnp.ones((1, 140)))
    return variables, graph.slice(variables, graph.masks({"a": range(width - kept)}))


def test_adafactor_is_cut_where_it_keeps_the_same_means():
    optimizer = optax.adafactor(0.1)
    variables, pruned = two_layers(300, 200)
    state = optimizer.init(variables)
    wanted = jax.eval_shape(optimizer.init, pruned.variables)
    assert jax.tree.map(jnp.shape, pruned.cut(state)) == jax.tree.map(jnp.shape, wanted)
    rows = state[0].v_row | {"b": jnp.arange(140.0)}
    columns = state[0].v_col | {"b": jnp.arange(300.0)}
    small = pruned.cut((state[0]._replace(v_row=rows, v_col=columns), *state[1:]))
    assert small[0].v_row["b"].tolist() == list(range(140))
    assert small[0].v_col["b"].tolist() == list(range(100, 300))
    for kept in (130, 100):  # shorter than the inputs, then too short to be factored
        variables, pruned = two_layers(300, kept)
        with pytest.raises(ValueError, match=r"v_row/a: adafactor .* \(140, 300\) becomes"):
            pruned.cut(optimizer.init(variables))


def test_a_moment_in_a_subspace_is_refused_though_it_has_the_kernels_shape():
    variables, pruned = two_layers(140, 130)
    state = optax.contrib.scale_by_galore(rank=140).init(variables)
    assert jax.tree.map(jnp.shape, state.projector) == jax.tree.map(jnp.shape, variables)
    with pytest.raises(ValueError, match=r"projector/a .*start its state anew"):
        pruned.cut(state)


@pytest.mark.parametrize(
    "tree",
    [
        {"weights": jnp.ones((3, 6)), "other": jnp.ones(6)},
        [jnp.ones((3, 6)), jnp.ones(6), jnp.ones((6, 3))],
        (jnp.ones((5, 5)), 3),
    ],
    ids=["other names", "leaves alone", "another tree"],
)
def test_a_tree_in_which_nothing_follows_the_variables_is_refused(tree):
    with pytest.raises(ValueError, match=r"nothing in this tree .*\(.*params/a, params/b"):
        PRUNED.cut(tree)


def test_trees_without_arrays_of_weights_pass():
    rest = {"step": jnp.ones(()), "key": jax.random.key(0), "seed": jax.random.PRNGKey(0), "n": 3}
    assert jax.tree.structure(PRUNED.cut(rest)) == jax.tree.structure(rest)
    assert PRUNED.cut(optax.sgd(0.1).init(VARIABLES)) == optax.sgd(0.1).init(VARIABLES)


# The optimizer states of the libraries, as their users have them.


def shapes(tree):
    return {path: jnp.shape(leaf) for path, leaf in paths.leaves(tree)}


def pruned_module(module, variables=None):
    """The module pruned to half of its first layer."""
    import jaxprune as jp

    made, variables = jp.functional(module, variables)
    graph = jp.trace(made, variables, jnp.ones((2, 3)))
    (name,) = graph.names
    return graph.slice(variables, graph.masks({name: [0, 2, 5]}))


def test_nnx():
    from flax import nnx

    module = nnx.Sequential(
        nnx.Linear(3, 6, rngs=nnx.Rngs(0)), nnx.BatchNorm(6, rngs=nnx.Rngs(0)), nnx.relu,
        nnx.Linear(6, 2, rngs=nnx.Rngs(0)),
    )  # fmt: skip
    module.eval()
    optimizer = nnx.Optimizer(module, optax.adam(0.1), wrt=nnx.Param)
    pruned = pruned_module(module)
    small = pruned.module()
    wanted = shapes(nnx.state(small.module))
    assert shapes(pruned.cut(nnx.state(module))) == wanted
    assert shapes(pruned.cut(nnx.to_pure_dict(nnx.state(module)))) == {
        path.removesuffix("/value"): shape for path, shape in wanted.items()
    }
    anew = nnx.Optimizer(small.module, optax.adam(0.1), wrt=nnx.Param)
    assert shapes(pruned.cut(optimizer.opt_state)) == shapes(anew.opt_state)
    assert shapes(pruned.cut(nnx.state(optimizer))) == shapes(nnx.state(anew))
    nnx.update(anew, pruned.cut(nnx.state(optimizer)))


def test_haiku():
    import haiku as hk

    def forward(x):
        return hk.Linear(2, name="out")(jax.nn.relu(hk.Linear(6, name="in")(x)))

    network = hk.transform(forward)
    params = network.init(jax.random.key(0), jnp.ones((2, 3)))
    pruned = pruned_module(network, params)
    state = pruned.cut(optax.adam(0.1).init(params))
    assert shapes(state) == shapes(optax.adam(0.1).init(pruned.variables["params"]))


def test_equinox():
    import equinox as eqx

    class Network(eqx.Module):
        layers: list

        def __call__(self, x):
            return jax.vmap(self.layers[1])(jax.nn.relu(jax.vmap(self.layers[0])(x)))

    keys = jax.random.split(jax.random.key(0))
    module = Network([eqx.nn.Linear(3, 6, key=keys[0]), eqx.nn.Linear(6, 2, key=keys[1])])
    state = optax.adam(0.1).init(eqx.filter(module, eqx.is_array))
    pruned = pruned_module(module)
    small = pruned.module()
    anew = optax.adam(0.1).init(eqx.filter(small.module, eqx.is_array))
    assert shapes(pruned.cut(state)) == shapes(anew)


def test_keras():
    keras = pytest.importorskip("keras")
    layers = keras.layers
    stack = [layers.Input((3,)), layers.Dense(6, "relu", name="in"), layers.Dense(2, name="out")]
    model = keras.Sequential(stack, name="net")
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    pruned = pruned_module(model)
    small = pruned.cut(optimizer.variables)
    after = {v.path: value.shape for v, value in zip(optimizer.variables, small, strict=True)}
    assert after["adam/net_in_kernel_velocity"] == (3, 3)
    assert after["adam/net_out_kernel_momentum"] == (3, 2)
    assert after["adam/net_out_bias_momentum"] == (2,)
    adafactor = keras.optimizers.Adafactor()
    adafactor.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"adafactor/.*build the optimizer anew"):
        pruned.cut(adafactor.variables)
