"""A tiny convolutional network written as pure functions, and images that it can learn."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxprune.data.split import Split
from jaxprune.data.streamed import Streamed
from jaxprune.train.network import Network, Output

MEAN, STD = (0.5,), (0.25,)


def tiny_network(momentum: float = 0.9, dropout: float = 0.0):
    """1x1 convolution, BatchNorm, ReLU, dropout, one linear: 4x4 images to 3 classes."""

    def forward(variables, images, key, train):
        params, old = variables["params"], variables["batch_stats"]
        x = images @ params["conv"]["kernel"]
        mean, var = old["bn"]["mean"], old["bn"]["var"]
        stats = old
        if train:
            x32 = x.astype(jnp.float32)
            mean, var = x32.mean((0, 1, 2)), x32.var((0, 1, 2))
            new = {"mean": mean, "var": var}
            stats = {
                "bn": {k: momentum * old["bn"][k] + (1 - momentum) * new[k] for k in new},
                "count": old["count"] + 1,
            }
        x = (x.astype(mean.dtype) - mean) * jax.lax.rsqrt(var + 1e-5)
        x += params["bn"]["bias"].astype(x.dtype)
        x = jax.nn.relu(x.astype(images.dtype))
        if train and dropout:
            x = jnp.where(jax.random.bernoulli(key, 1 - dropout, x.shape), x / (1 - dropout), 0)
        maps = (jnp.square(x).sum(-1).reshape(len(x), -1),)
        logits = x.reshape(len(x), -1) @ params["linear"]["kernel"] + params["linear"]["bias"]
        return Output(logits, maps, {"batch_stats": stats})

    return Network(
        train=lambda variables, images, key: forward(variables, images, key, True),
        eval=lambda variables, images, key: forward(variables, images, key, False),
    )


def tiny_variables(seed: int = 0, channels: int = 6):
    keys = jax.random.split(jax.random.key(seed))
    return {
        "params": {
            "conv": {"kernel": jax.random.normal(keys[0], (1, channels))},
            "bn": {"bias": jnp.zeros(channels)},
            "linear": {
                "kernel": jax.random.normal(keys[1], (16 * channels, 3)) * 0.1,
                "bias": jnp.zeros(3),
            },
        },
        "batch_stats": {
            "bn": {"mean": jnp.zeros(channels), "var": jnp.ones(channels)},
            "count": jnp.zeros((), jnp.int32),
        },
    }


@pytest.fixture(autouse=True)
def types_are_written_out(request):
    """Nothing here leaves it to JAX to find a common type, but for adamw and muon of optax."""
    by_optax = request.path.name == "test_optimizer.py" or "[cheap]" in request.node.name
    with jax.numpy_dtype_promotion("standard" if by_optax else "strict"):
        yield


@pytest.fixture
def split() -> Split:
    """The label says how bright an image is, so that crops and flips do not matter."""
    random = np.random.default_rng(0)
    labels = np.arange(70) % 3
    images = random.integers(0, 80, (70, 4, 4, 1)) + 80 * labels[:, None, None, None]
    ids = np.arange(70).astype(str)
    return Split(images.astype(np.uint8), labels.astype(np.int32), ids)


@pytest.fixture
def streamed() -> Streamed:
    """Likewise, as JPEGs that differ in size."""
    random = np.random.default_rng(0)
    source = []
    for i in range(70):
        pixels = random.integers(0, 80, (8 + i % 3, 8 + i % 4)) + 80 * (i % 3)
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "jpeg")
        source.append({"image": file.getvalue(), "label": i % 3})
    return Streamed(source, np.arange(70), "train", "image", "label", (4, 4, 1), 3, workers=2)


@pytest.fixture
def tiny():
    """`tiny(**options) -> (network, variables)`."""
    return lambda seed=0, **options: (tiny_network(**options), tiny_variables(seed))


@pytest.fixture
def normal() -> dict:
    return {"mean": MEAN, "std": STD}
