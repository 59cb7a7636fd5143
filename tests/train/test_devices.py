"""Several devices give what one gives, and really share the work.

On fewer than eight devices, one test runs the others in a process that is told it has eight.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import masks as mask_ops
from jaxprune import pipeline
from jaxprune.budget import Budget
from jaxprune.checkpoint import Checkpoints
from jaxprune.config import (
    EvaluationConfig,
    FinetuneConfig,
    ModelConfig,
    RunConfig,
    ValidationConfig,
)
from jaxprune.mesh import MeshConfig, make
from jaxprune.methods import Greedy
from jaxprune.pipeline import training as trainings
from jaxprune.statistics import evaluate_masks
from jaxprune.train.evaluate import predict
from jaxprune.train.loop import fit
from jaxprune.train.losses import DistillConfig
from jaxprune.train.network import Network
from jaxprune.train.state import TrainConfig, initial_state

CONFIG = TrainConfig(epochs=2, batch_size=8, crop_padding=1)
EIGHT = "--xla_force_host_platform_device_count=8"

eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")


@pytest.mark.skipif(jax.device_count() >= 8, reason="the other tests run here")
def test_on_eight_devices():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", __file__],
        env={
            **os.environ,
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {EIGHT}",
            "JAX_PLATFORMS": "cpu",
        },
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "8 passed, 1 skipped" in done.stdout


def mesh(**sizes):
    made = make(MeshConfig(**sizes))
    assert made is not None
    return made


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def watched(network):
    """The network, and the sizes of the parts of its training images and logits by device."""
    seen = []

    def note(sharding):
        seen.append(sharding)

    def train(variables, images, key):
        jax.debug.inspect_array_sharding(images, callback=note)
        out = network.train(variables, images, key)
        jax.debug.inspect_array_sharding(out.logits, callback=note)
        return out

    return Network(train, network.eval), seen


@eight
def test_training_is_that_of_one_device(tiny, split, normal):
    network, variables = tiny(dropout=0.3)
    teacher = tiny(seed=5)
    options = {"teacher": teacher, "distill": DistillConfig(attention=10, kl=1), "seed": 3}
    alone = fit(network, variables, split, CONFIG, **options, **normal)
    network, seen = watched(network)
    spread = fit(
        network, variables, split, CONFIG, mesh=mesh(data=4, population=2), **options, **normal
    )
    assert_close(spread, alone)
    assert {sharding.shard_shape((8, 1))[0] for sharding in seen} == {2}
    for leaf in jax.tree.leaves(spread):
        assert leaf.sharding.is_fully_replicated and len(leaf.addressable_shards) == 8


@eight
def test_steps_in_a_loop_and_images_on_disk(tiny, split, streamed, normal, monkeypatch):
    network, variables = tiny()
    looped, seen = watched(network)
    for data, backend in ((streamed, "cpu"), (split, "tpu")):
        alone = fit(network, variables, data, CONFIG, seed=0, until=11, **normal)
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        spread = fit(looped, variables, data, CONFIG, seed=0, until=11, mesh=mesh(data=8), **normal)
        assert_close(spread, alone)
        assert seen and {sharding.shard_shape((8, 1))[0] for sharding in seen} == {1}
        seen.clear()


@eight
def test_a_training_goes_on_with_other_devices(tiny, split, normal, tmp_path):
    network, variables = tiny()
    whole = fit(network, variables, split, CONFIG, seed=0, **normal)
    part = fit(network, variables, split, CONFIG, seed=0, until=7, mesh=mesh(data=8), **normal)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, part)
        restored = checkpoints.restore(initial_state(variables, CONFIG))
    for state, other in ((part, mesh(data=2)), (restored, None)):
        ended = fit(network, variables, split, CONFIG, seed=0, state=state, mesh=other, **normal)
        assert_close(ended, whole)


@eight
def test_evaluation_splits_its_batches(tiny, split, normal):
    network, variables = tiny()
    alone = predict(network, variables, split, batch_size=32, **normal)
    seen = []

    def watch(variables, images, key):
        jax.debug.inspect_array_sharding(images, callback=seen.append)
        return network.eval(variables, images, key)

    spread = predict(
        Network(watch, watch), variables, split, batch_size=32, mesh=mesh(data=8), **normal
    )
    assert_close(spread, alone)
    assert [sharding.shard_shape((32, 4, 4, 1))[0] for sharding in seen] == [4]
    with pytest.raises(ValueError, match=r"batch_size: the 8 devices of mesh\.data cannot share"):
        predict(network, variables, split, batch_size=12, mesh=mesh(data=8), **normal)


@eight
def test_a_population_is_split_by_masks_and_images():
    rng = np.random.default_rng(0)
    variables = {n: jnp.asarray(rng.normal(size=s)) for n, s in {"a": (5, 9), "b": (9, 3)}.items()}
    parts = []

    def network(variables, x):
        parts.append(len(x))
        return jax.nn.relu(x @ variables["a"]) @ variables["b"]

    batches = [(rng.normal(size=(n, 5)), rng.integers(0, 3, n)) for n in (16, 8)]
    graph = jp.trace(network, variables, batches[0][0])
    masks = [{"a[1]": rng.integers(0, 2, 9)} for _ in range(7)]
    assert set(masks[0]) == set(graph.groups)
    measured = []
    for spread in (None, mesh(population=4, data=2), mesh(population=8)):
        parts.clear()
        problem = jp.Problem(graph, network, variables, batches, jp.Budget(), mesh=spread)
        measured.append(evaluate_masks(problem, mask_ops.stack(masks)))
        shares = 1 if spread is None else spread.shape["data"]
        assert set(parts) == {16 // shares, 8 // shares}
    for found in measured[1:]:
        assert_close(found, measured[0])


@eight
def test_a_run_takes_its_mesh_from_the_config(tmp_path, monkeypatch):
    training = TrainConfig(epochs=0.2, batch_size=64, crop_padding=1, flip=False)
    config = RunConfig(
        out=str(tmp_path),
        model=ModelConfig("vgg_small", {f"conv{i}_{j}": 4 for i in (1, 2, 3) for j in (1, 2)}),
        train=training,
        budget=Budget("params/2"),
        validation=ValidationConfig(batch_size=200),
        method=Greedy(kept=(0.5,)),
        finetune=FinetuneConfig(epochs=0, batch_size=64, crop_padding=1, flip=False),
        controls=(),
        evaluation=EvaluationConfig(latency_repeats=1, batch_size=40),
    )
    devices = []

    def watched(*arguments, **options):
        state = fit(*arguments, **options)
        devices.append(len(state.step.sharding.device_set))
        return state

    monkeypatch.setattr(trainings, "fit", watched)
    run = pipeline.open_run(dataclasses.replace(config, mesh=MeshConfig(data=4, population=2)))
    variables = pipeline.train(run)
    assert all(len(x.sharding.device_set) == 1 for x in jax.tree.leaves(variables))
    assert devices == [8]
    # A run goes on with a mesh that is not the one it began with.
    other = dataclasses.replace(config, mesh=MeshConfig(data=2, population=2))
    assert pipeline.run(other)["params_after"] > 0
    with pytest.raises(ValueError, match=r"train\.batch_size: the 6 devices of mesh\.data cannot"):
        pipeline.open_run(dataclasses.replace(config, mesh=MeshConfig(data=6)))


@eight
def test_all_devices():
    assert mesh(data=-1).shape == {"population": 1, "data": 8}
    assert mesh(data=-1, population=2).shape == {"population": 2, "data": 4}
    assert mesh(data=3, population=-1).shape == {"population": 2, "data": 3}


def test_bad_meshes_are_named():
    for sizes, message in (
        ({"data": 0}, r"mesh\.data must be at least 1, or -1"),
        ({"population": -2}, r"mesh\.population must be at least 1"),
        ({"data": -1, "population": -1}, "only one can be the rest"),
        ({"data": 64, "population": 2}, "asks for 128 devices .* but there are"),
    ):
        with pytest.raises(ValueError, match=message):
            make(MeshConfig(**sizes))
    assert make(MeshConfig()) is None
