"""An autoencoder's reconstruction error: what is unlike the training images is copied badly.

It sees the images alone and nothing of the network that it watches. That it is among the
supervisors of arXiv 1903.01263 is reconstructed, and so are its layers and its training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.data import batch_indices


class Autoencoder(nn.Module):
    """Two strided convolutions, a bottleneck, and the way back; images [B, H, W, C].

    Attributes:
      bottleneck: numbers that an image goes through.
      channels: of the first convolution; the second has twice as many.
    """

    bottleneck: int = 32
    channels: int = 16

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """The copies, of the images' shape."""
        height, width, colours = images.shape[1:]
        x = nn.relu(nn.Conv(self.channels, (3, 3), (2, 2))(images))
        x = nn.relu(nn.Conv(2 * self.channels, (3, 3), (2, 2))(x))
        shape = x.shape
        x = nn.Dense(self.bottleneck)(x.reshape(shape[0], -1))
        x = nn.relu(nn.Dense(int(np.prod(shape[1:])))(x)).reshape(shape)
        x = nn.relu(nn.ConvTranspose(self.channels, (3, 3), (2, 2))(x))
        x = nn.ConvTranspose(colours, (3, 3), (2, 2))(x)
        return x[:, :height, :width]  # of odd sides the way back gives one more


def fit(
    images: np.ndarray,
    seed: int,
    *,
    model: Autoencoder | None = None,
    epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    on_epoch: Callable[[float], Any] = lambda loss: None,
) -> Any:
    """Trains it on normalised images float32 [N, H, W, C] and returns its variables."""
    model = model or Autoencoder()
    batch_size = min(batch_size, len(images))
    steps = epochs * (len(images) // batch_size)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    variables = jax.jit(model.init)(jax.random.key(seed), jnp.asarray(images[:1]))
    state = optimizer.init(variables)
    step = _step(model, optimizer)
    for i in range(steps):
        batch = jnp.asarray(images[batch_indices(seed, i, len(images), batch_size)])
        variables, state, loss = step(variables, state, batch)
        if (i + 1) % (steps // epochs) == 0:
            on_epoch(float(loss))
    return variables


def _step(model: Autoencoder, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    @jax.jit
    def step(variables: Any, state: Any, batch: jax.Array) -> tuple[Any, Any, jax.Array]:
        def loss(variables: Any) -> jax.Array:
            return jnp.mean(_errors(model, variables, batch))

        value, gradients = jax.value_and_grad(loss)(variables)
        updates, state = optimizer.update(gradients, state, variables)
        return optax.apply_updates(variables, updates), state, value

    return step


def _errors(model: Autoencoder, variables: Any, images: jax.Array) -> jax.Array:
    copies: Any = model.apply(variables, images)
    return jnp.mean(jnp.square(copies - images), axis=(1, 2, 3))


_score = jax.jit(_errors, static_argnums=0)


def score(variables: Any, images: jax.Array, model: Autoencoder | None = None) -> jax.Array:
    """The mean squared errors [B] of the copies of images [B, H, W, C]; they have no bounds."""
    return _score(model or Autoencoder(), variables, images)
