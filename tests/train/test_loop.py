import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.checkpoint import Checkpoints
from jaxprune.data.augment import normalize
from jaxprune.data.batches import batch_indices
from jaxprune.train.evaluate import correct
from jaxprune.train.loop import fit
from jaxprune.train.losses import DistillConfig
from jaxprune.train.network import Network, Output
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig, initial_state, total_steps

# 8 steps an epoch, 24 in all, over several chunks and a remainder of 6 images.
CONFIG = TrainConfig(
    epochs=3, batch_size=8, crop_padding=1, flip=True, optimizer=OptimizerConfig(learning_rate=0.05)
)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


def test_it_learns(tiny, split, normal):
    network, variables = tiny()
    before = correct(network, variables, split, **normal).mean()
    state = fit(network, variables, split, CONFIG, seed=0, **normal)
    assert int(state.step) == 24
    assert int(state.state["batch_stats"]["count"]) == 24
    assert correct(network, state.variables, split, **normal).mean() > max(0.9, before)


def test_the_given_variables_stay_usable(tiny, split, normal):
    network, variables = tiny()
    copy = jax.tree.map(np.array, variables)
    middle = fit(network, variables, split, CONFIG, seed=0, until=2, **normal)
    kept = jax.tree.map(np.array, middle)
    fit(network, variables, split, CONFIG, seed=0, state=middle, **normal)
    assert_same_bits(jax.tree.map(np.array, variables), copy)
    assert_same_bits(jax.tree.map(np.array, middle), kept)


CHEAP = dataclasses.replace(
    CONFIG, alternating=True, cutout=2, average=0.9,
    optimizer=OptimizerConfig("muon", 0.01, schedule="linear"),
)  # fmt: skip


@pytest.mark.parametrize("config", [CONFIG, CHEAP], ids=["usual", "cheap"])
def test_going_on_from_any_step_gives_the_same_bits(tiny, split, normal, tmp_path, config):
    network, variables = tiny(dropout=0.3)
    whole = fit(network, variables, split, config, seed=3, **normal)
    for stop in (1, 8, 13, 23):
        part = fit(network, variables, split, config, seed=3, until=stop, **normal)
        assert int(part.step) == stop
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(stop, part)
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore(initial_state(variables, config))
        ended = fit(network, variables, split, config, seed=3, state=restored, **normal)
        assert_same_bits(ended, whole)


def recorder(channels=1):
    """A network of one weight that keeps the images it saw, in training mode, in its state."""

    def train(variables, images, key):
        logits = variables["params"]["w"] * images.mean((1, 2)) * jnp.arange(3.0)
        small = jnp.zeros_like(variables["seen"]["images"])
        seen = small.at[:, : images.shape[1], : images.shape[2]].set(images)
        return Output(logits, (), {"seen": {"images": seen}})

    variables = {"params": {"w": jnp.ones(1)}, "seen": {"images": jnp.zeros((8, 4, 4, channels))}}
    return Network(train, train), variables


def test_flips_alternate_from_epoch_to_epoch(split, normal):
    network, variables = recorder()
    config = dataclasses.replace(CONFIG, crop_padding=0, alternating=True)
    plain = normalize(jnp.asarray(split.images), **normal)
    mirrored = np.zeros((3, len(split)))
    for epoch in range(3):
        for step in range(8 * epoch, 8 * epoch + 8):
            state = fit(network, variables, split, config, seed=0, until=step + 1, **normal)
            for i, image in zip(
                batch_indices(0, step, 70, 8), state.state["seen"]["images"], strict=True
            ):
                same, other = (np.array_equal(image, plain[i][:, ::s]) for s in (1, -1))
                assert same != other
                mirrored[epoch, i] = 1 if same else -1
    both = mirrored[:-1] * mirrored[1:]
    assert set(both.ravel()) == {0, -1}  # an image that is left out of an epoch is 0
    assert abs(mirrored[0].sum()) < 40


def test_it_begins_with_small_crops(split, normal):
    network, variables = recorder()
    network, traces = counted(network)
    config = dataclasses.replace(CONFIG, small_crops=1 / 3, small_size=3, flip=False)
    whole = fit(network, variables, split, config, seed=0, **normal)
    sizes = []
    for stop in (1, 8, 9):
        seen = fit(network, variables, split, config, seed=0, until=stop, **normal)
        sizes.append(int((seen.state["seen"]["images"] != 0).any((0, 2, 3)).sum()))
    assert sizes == [3, 3, 4]
    part = fit(network, variables, split, config, seed=0, until=5, **normal)
    assert_same_bits(fit(network, variables, split, config, seed=0, state=part, **normal), whole)
    assert {shape[1] for shape in traces} == {3, 4} and len(traces) == 2


def test_the_average_takes_the_place_of_the_weights_at_the_end(tiny, split, normal):
    network, variables = tiny()
    config = dataclasses.replace(CONFIG, average=0.5)
    kernels = [
        np.float64(
            fit(network, variables, split, CONFIG, seed=0, until=n, **normal).params["conv"][
                "kernel"
            ]
        )
        for n in range(25)
    ]
    expected = kernels[0]
    for step, kernel in enumerate(kernels[1:], start=1):
        decay = min(0.5, step / (step + 9))
        expected = decay * expected + (1 - decay) * kernel
    early = fit(network, variables, split, config, seed=0, until=23, **normal)
    np.testing.assert_array_equal(early.params["conv"]["kernel"], np.float32(kernels[23]))
    end = fit(network, variables, split, config, seed=0, **normal)
    np.testing.assert_allclose(end.params["conv"]["kernel"], expected, rtol=1e-5)
    assert int(end.state["batch_stats"]["count"]) == 24


def test_alternating_flips_need_images_in_memory(tiny, streamed, normal):
    network, variables = tiny()
    with pytest.raises(ValueError, match=r"TrainConfig\.alternating is for images .* in memory"):
        fit(network, variables, streamed, CHEAP, seed=0, **normal)


def test_the_seed_decides(tiny, split, normal):
    network, variables = tiny()
    one, again, other = (
        fit(network, variables, split, CONFIG, seed=seed, until=3, **normal) for seed in (1, 1, 2)
    )
    assert_same_bits(one, again)
    assert np.any(one.params["conv"]["kernel"] != other.params["conv"]["kernel"])


def counted(network):
    traces = []

    def train(variables, images, key):
        traces.append(images.shape)
        return network.train(variables, images, key)

    return Network(train, network.eval), traces


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_one_compilation_for_chunks_of_any_length(tiny, split, normal, monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    network, variables = tiny()
    network, traces = counted(network)
    fit(network, variables, split, CONFIG, seed=0, until=1, **normal)
    first = len(traces)
    state = fit(network, variables, split, CONFIG, seed=0, until=11, **normal)
    fit(network, variables, split, CONFIG, seed=0, state=state, **normal)
    # The looped form is traced once more, for the metrics' shapes.
    assert first <= 2
    assert len(traces) == first


def test_images_on_disk(tiny, streamed, normal):
    network, variables = tiny(dropout=0.3)
    network, traces = counted(network)
    losses = []
    whole = fit(
        network, variables, streamed, CONFIG, seed=3, **normal,
        on_chunk=lambda _, chunk: losses.extend(chunk.metrics["loss"]),
    )  # fmt: skip
    assert len(losses) == int(whole.step) == 24
    assert np.mean(losses[-8:]) < 0.5 * np.mean(losses[:2])
    part = fit(network, variables, streamed, CONFIG, seed=3, until=13, **normal)
    more = dataclasses.replace(streamed, workers=5)
    assert_same_bits(fit(network, variables, more, CONFIG, seed=3, state=part, **normal), whole)
    assert len(traces) == 1
    other = fit(network, variables, streamed, CONFIG, seed=4, until=1, **normal)
    first = fit(network, variables, streamed, CONFIG, seed=3, until=1, **normal)
    assert np.any(other.params["conv"]["kernel"] != first.params["conv"]["kernel"])


def test_images_on_disk_for_a_network_of_fewer_classes(tiny, streamed, normal):
    network, variables = tiny()
    more = dataclasses.replace(streamed, num_classes=4)
    with pytest.raises(ValueError, match="at least 4 classes"):
        fit(network, variables, more, CONFIG, seed=0, **normal)


def test_steps_in_a_loop_are_the_same_steps(tiny, split, normal, monkeypatch):
    network, variables = tiny(dropout=0.2)
    seen = {}
    for backend in ("cpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        losses = []
        state = fit(
            network, variables, split, CONFIG, seed=0, **normal,
            on_chunk=lambda _, chunk, losses=losses: losses.extend(chunk.metrics["loss"]),
        )  # fmt: skip
        seen[backend] = losses, state.params["linear"]["kernel"]
    np.testing.assert_allclose(seen["cpu"][0], seen["tpu"][0], rtol=1e-4)
    np.testing.assert_allclose(seen["cpu"][1], seen["tpu"][1], rtol=1e-3, atol=1e-5)


def test_chunks_tell_every_step_once_and_end_with_each_epoch(tiny, split, normal):
    network, variables = tiny()
    chunks = []
    fit(
        network, variables, split, CONFIG, seed=0, **normal,
        on_chunk=lambda state, chunk: chunks.append((int(state.step), chunk)),
    )  # fmt: skip
    assert np.concatenate([c.steps for _, c in chunks]).tolist() == list(range(24))
    assert [c.done for _, c in chunks if c.ends_epoch] == [8, 16, 24]
    assert all(step == chunk.done for step, chunk in chunks)
    assert chunks[-1][1].epoch == 3
    assert chunks[-1][1].total == 24
    metrics = chunks[-1][1].metrics
    assert set(metrics) == {"loss", "cross_entropy", "accuracy", "gradient_norm", "learning_rate"}
    assert all(len(v) == len(chunks[-1][1].steps) for v in metrics.values())


def test_the_teacher_sees_the_same_view_in_evaluation_mode(tiny, split, normal):
    network, variables = tiny()

    def refuse(*_):
        raise AssertionError("the teacher in training mode")

    # A student without batch statistics is its own teacher at step 0 exactly if the views agree.
    student = Network(train=network.eval, eval=network.eval)
    teacher = Network(train=refuse, eval=network.eval)
    chunks = []
    fit(
        student, variables, split, CONFIG, seed=0, teacher=(teacher, variables), until=2,
        distill=DistillConfig(attention=10.0, kl=1.0),
        on_chunk=lambda _, chunk: chunks.append(chunk), **normal,
    )  # fmt: skip
    attention = np.concatenate([c.metrics["attention"] for c in chunks])
    kl = np.concatenate([c.metrics["kl"] for c in chunks])
    assert attention[0] == pytest.approx(0, abs=1e-9)
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert attention[1] > 1e-9
    assert kl[1] > 1e-6


def test_distillation_draws_the_student_to_the_teacher(tiny, split, normal):
    network, variables = tiny()
    _, other = tiny(seed=9)
    distances = []
    for weight in (0.0, 100.0):
        chunks = []
        fit(
            network, variables, split, CONFIG, seed=0, teacher=(network, other), **normal,
            distill=DistillConfig(attention=1e-9 + weight),
            on_chunk=lambda _, chunk, chunks=chunks: chunks.append(chunk.metrics["attention"]),
        )  # fmt: skip
        distances.append(np.concatenate(chunks)[-8:].mean())
    assert distances[1] < 0.8 * distances[0]


def test_bfloat16_computes_low_and_keeps_high(tiny, split, normal):
    network, variables = tiny()
    seen = set()

    def train(variables, images, key):
        seen.update({"params": variables["params"]["conv"]["kernel"].dtype.name}.items())
        seen.update({"images": images.dtype.name}.items())
        seen.update({"state": variables["batch_stats"]["bn"]["mean"].dtype.name}.items())
        return network.train(variables, images, key)

    low = dataclasses.replace(CONFIG, precision="bfloat16")
    state = fit(Network(train, network.eval), variables, split, low, seed=0, **normal)
    assert seen == {("params", "bfloat16"), ("images", "bfloat16"), ("state", "float32")}
    kept = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state))}
    assert kept <= {jnp.dtype("float32"), jnp.dtype("int32")}
    assert state.state["batch_stats"]["bn"]["mean"].dtype == jnp.float32
    assert correct(network, state.variables, split, **normal).mean() > 0.9


def test_a_loss_that_is_not_finite_names_its_step(tiny, split, normal):
    network, variables = tiny()

    def train(variables, images, key):
        out = network.train(variables, images, key)
        bad = variables["batch_stats"]["count"] == 5
        return Output(jnp.where(bad, jnp.nan, out.logits), out.maps, out.state)

    with pytest.raises(FloatingPointError, match=r"loss is nan at step 5 .*learning_rate"):
        fit(Network(train, network.eval), variables, split, CONFIG, seed=0, **normal)


def test_zero_epochs_train_nothing(tiny, split, normal):
    network, variables = tiny()
    none = dataclasses.replace(CONFIG, epochs=0)
    assert total_steps(none, 70) == 0
    state = fit(network, variables, split, none, seed=0, **normal)
    assert_same_bits(state.params, variables["params"])
    assert total_steps(dataclasses.replace(CONFIG, epochs=0.01), 70) == 1


def test_bad_data_is_named(tiny, split, normal):
    network, variables = tiny()
    for data, message in (
        (dataclasses.replace(split, images=split.images[:0]), "images is empty"),
        (dataclasses.replace(split, images=split.images / 255), "has to be uint8"),
        (dataclasses.replace(split, labels=split.labels[:5]), r"labels has to be integers \[70\]"),
        (dataclasses.replace(split, labels=split.labels - 1), "labels has -1"),
        (
            dataclasses.replace(split, labels=split.labels + 5),
            r"reaches 7, but .* at least 8 classes",
        ),
        (
            dataclasses.replace(split, images=split.images[:4], labels=split.labels[:4]),
            "batch_size is 8",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            fit(network, variables, data, CONFIG, seed=0, **normal)


def test_broken_variables_are_named(tiny, split, normal):
    network, variables = tiny()
    broken = {**variables, "params": {**variables["params"], "bn": {"bias": jnp.full(6, jnp.nan)}}}
    with pytest.raises(ValueError, match=r"NaN or infinity in the variables .*: params/bn/bias"):
        fit(network, broken, split, CONFIG, seed=0, **normal)
    with pytest.raises(ValueError, match=r"NaN or infinity in the teacher .*: params/bn/bias"):
        fit(network, variables, split, CONFIG, seed=0, teacher=(network, broken), **normal)
    with pytest.raises(ValueError, match='"params"'):
        fit(network, variables["params"], split, CONFIG, seed=0, **normal)


def test_a_network_that_forgets_its_state_is_named(tiny, split, normal):
    network, variables = tiny()
    forgets = Network(lambda *a: network.train(*a)._replace(state={}), network.eval)
    with pytest.raises(ValueError, match="batch_stats/bn/mean"):
        fit(forgets, variables, split, CONFIG, seed=0, **normal)


@pytest.mark.parametrize(
    "field",
    [
        {"epochs": -1.0},
        {"batch_size": 0},
        {"crop_padding": -1},
        {"label_smoothing": 1.0},
        {"cutout": -1},
        {"small_crops": 1.5},
        {"small_size": 0},
        {"average": 1.0},
        {"precision": "float16"},
    ],
)
def test_bad_fields_are_named(field):
    with pytest.raises(ValueError, match=f"TrainConfig.{next(iter(field))}"):
        TrainConfig(**field)
