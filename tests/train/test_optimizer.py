import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.train.optimizer import OptimizerConfig, build, learning_rate

PARAMS = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0), "scale": jnp.ones(())}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_weight_decay_spares_biases_and_scales(name):
    config = OptimizerConfig(name, 0.1, weight_decay=0.5, schedule="constant", warmup=0)
    optimizer = build(config, 10)
    updates, _ = optimizer.update(ZEROS, optimizer.init(PARAMS), PARAMS)
    # Nesterov's first step moves by (1 + momentum) times the gradient.
    factor = 1.9 if name == "sgd" else 1.0
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 2.0 * factor, rtol=1e-6)
    assert not updates["bias"].any()
    assert not updates["scale"].any()


def test_clipping_bounds_the_global_norm_and_keeps_the_direction():
    config = OptimizerConfig(
        learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.5, schedule="constant",
        warmup=0,
    )  # fmt: skip
    optimizer = build(config, 10)
    for size, expected in ((100.0, 0.5), (0.1, 0.1)):
        gradient = {"a": jnp.array([0.6 * size]), "b": jnp.array([[0.8 * size]])}
        updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
        assert optax.tree.norm(updates) == pytest.approx(expected, rel=1e-6)
        assert updates["b"][0, 0] / updates["a"][0] == pytest.approx(8 / 6, rel=1e-6)


def test_cosine_rises_then_falls_to_zero():
    schedule = learning_rate(OptimizerConfig(learning_rate=2.0, warmup=0.1), 100)
    assert schedule(0) == pytest.approx(0.2)
    assert schedule(9) == pytest.approx(2.0)
    assert schedule(55) == pytest.approx(1.0)
    assert schedule(99) < 0.01
    assert schedule(1000) == pytest.approx(0.0, abs=1e-7)


def test_linear_rises_then_falls_to_zero():
    schedule = learning_rate(OptimizerConfig(learning_rate=2.0, warmup=0.1, schedule="linear"), 100)
    assert [float(schedule(s)) for s in (9, 10, 55, 100, 1000)] == pytest.approx([2, 2, 1, 0, 0])


def test_muon_gives_kernels_orthogonal_updates_and_the_rest_adams():
    rng = np.random.default_rng(0)
    params = {"conv": jnp.ones((3, 3, 2, 8)), "linear": jnp.ones((6, 4)), "bias": jnp.ones(4)}
    gradient = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
    config = OptimizerConfig("muon", 0.1, weight_decay=0.0, schedule="constant", warmup=0)
    optimizer = build(config, 10)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    for name in ("conv", "linear"):
        matrix = np.asarray(updates[name]).reshape(-1, updates[name].shape[-1])
        sizes = np.linalg.svd(matrix, compute_uv=False)
        assert sizes.max() < 2 * sizes.min()  # five steps of Newton and Schulz: 0.7 to 1.2
        assert 0.01 < np.sqrt(np.mean(matrix**2)) < 0.03  # 0.2 of the learning rate
    np.testing.assert_allclose(np.abs(updates["bias"]), 0.147, rtol=1e-2)  # Nesterov's first step


def test_step_falls_at_the_milestones():
    config = OptimizerConfig(
        learning_rate=1.0, schedule="step", warmup=0, milestones=(0.5, 0.75), gamma=0.1
    )
    schedule = learning_rate(config, 8)
    values = [float(schedule(step)) for step in range(8)]
    assert values == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_constant_without_warmup_is_constant():
    schedule = learning_rate(OptimizerConfig(schedule="constant", warmup=0, learning_rate=0.3), 5)
    assert [float(schedule(s)) for s in range(5)] == pytest.approx([0.3] * 5)


@pytest.mark.parametrize(
    "field",
    [
        {"name": "lion"},
        {"schedule": "square"},
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"clip_norm": 0.0},
        {"warmup": 1.0},
        {"milestones": (0.75, 0.5)},
        {"milestones": (30.0, 60.0)},
        {"gamma": 0.0},
        {"learning_rate": float("nan")},
    ],
)
def test_bad_fields_are_named(field):
    with pytest.raises(ValueError, match=f"OptimizerConfig.{next(iter(field))}"):
        OptimizerConfig(**field)
