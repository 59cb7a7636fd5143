"""Small random networks in plain JAX, from a list of the names of their blocks."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from laws import fill

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@jax.custom_jvp
def twice_rectified(x):
    return jax.nn.relu(jax.nn.relu(x) - 0.1)


@twice_rectified.defjvp
def _(primals, tangents):
    return twice_rectified(*primals), 0.5 * tangents[0]


class Builder:
    """Hands out the parameters by name: makes them at first, then looks them up."""

    def __init__(self, variables=None):
        self.made = {"params": {}, "stats": {}}
        self.variables = variables
        self.new_stats = {}
        self.count = 0

    def block(self):
        self.count += 1

    def get(self, kind, shape, collection="params"):
        name = f"block{self.count}"
        if self.variables is not None:
            return self.variables[collection][name][kind]
        value = jnp.ones(shape)
        self.made[collection].setdefault(name, {})[kind] = value
        return value

    def conv(self, x, features, size=3, groups=1, stride=1):
        self.block()
        kernel = self.get("kernel", (size, size, x.shape[-1] // groups, features))
        out = lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME",
            dimension_numbers=DIMENSIONS, feature_group_count=groups,
        )  # fmt: skip
        return out + self.get("bias", (features,))

    def dense(self, x, features):
        self.block()
        return x @ self.get("kernel", (x.shape[-1], features)) + self.get("bias", (features,))


def batch_norm_train(b, x):
    b.block()
    c = x.shape[-1]
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    old = {k: b.get(k, (c,), "stats") for k in ("mean", "var")}
    b.new_stats[f"block{b.count}"] = {
        "mean": 0.9 * old["mean"] + 0.1 * mean,
        "var": 0.9 * old["var"] + 0.1 * var,
    }
    return (x - mean) * lax.rsqrt(var + 1e-5) * b.get("scale", (c,)) + b.get("bias", (c,))


def batch_norm_eval(b, x):
    b.block()
    c = x.shape[-1]
    mean, var = (b.get(k, (c,), "stats") for k in ("mean", "var"))
    b.new_stats[f"block{b.count}"] = {"mean": mean, "var": var}
    return (x - mean) * lax.rsqrt(var + 1e-5) * b.get("scale", (c,)) + b.get("bias", (c,))


def group_norm(b, x, groups=2):
    b.block()
    *rest, c = x.shape
    y = x.reshape(*rest, groups, c // groups)
    mean = y.mean((1, 2, 4), keepdims=True)
    y = (y - mean) * lax.rsqrt(y.var((1, 2, 4), keepdims=True) + 1e-5)
    return y.reshape(x.shape) * b.get("scale", (c,))


def layer_norm(b, x):
    b.block()
    y = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    return y * b.get("scale", (x.shape[-1],))


def shuffle(b, x, groups=2):
    *rest, c = x.shape
    return x.reshape(*rest, groups, c // groups).swapaxes(-1, -2).reshape(x.shape)


def residual(b, x):
    return jax.nn.relu(x + b.conv(jnp.tanh(b.conv(x, 6)), x.shape[-1]))


def padded_residual(b, x):
    y = b.conv(x, x.shape[-1] + 4)
    return jnp.tanh(y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (1, 3))))


def gate(b, x):
    weights = jax.nn.sigmoid(b.dense(jax.nn.relu(b.dense(x.mean((1, 2)), 4)), x.shape[-1]))
    return x * weights[:, None, None, :]


def channels_first(b, x):
    b.block()
    kernel = b.get("kernel", (6, x.shape[-1], 3, 3))
    y = lax.conv_general_dilated(x.transpose(0, 3, 1, 2), kernel, (1, 1), "SAME")
    return (y + b.get("bias", (6, 1, 1))).transpose(0, 2, 3, 1)


def kernel_first(b, x):
    b.block()
    return jnp.moveaxis(jnp.tensordot(b.get("kernel", (6, x.shape[-1])), x, (1, 3)), 0, -1)


def grouped_gate(b, x):
    b.block()
    *rest, c = x.shape
    y = x.reshape(*rest, 2, c // 2) * jnp.tanh(b.get("scale", (2, 1)))
    spatial = x.mean((1, 2, 3))[:, None, None, None, None]
    return (y * jnp.tanh(spatial)).reshape(x.shape)


def attention(b, x):
    n, h, w, c = x.shape
    y = x.reshape(n, h * w, c)
    q, k, v = b.dense(y, 6), b.dense(y, 6), b.dense(y, c)
    weights = jax.nn.softmax(jnp.einsum("nic,njc->nij", q, k))
    return x + jnp.einsum("nij,njc->nic", weights, v).reshape(x.shape)


def patches(b, x):
    """A convolution as shifted images side by side and one product."""
    b.block()
    shifts = [jnp.roll(x, s, 1) for s in (-1, 0, 1)]
    kernel = b.get("kernel", (3, x.shape[-1], 6))
    return jnp.concatenate(shifts, -1) @ kernel.reshape(-1, 6)


def linear_unit(b, x):
    signal, weight = jnp.split(b.conv(x, 12, size=1), 2, -1)
    return signal * jax.nn.sigmoid(weight)


def halves(b, x):
    left, right = jnp.split(x, 2, -1)
    return jnp.concatenate([right, b.conv(left, 4)], -1)


def swapped_halves(b, x):
    left, right = jnp.split(x, 2, -1)
    return jnp.concatenate([right, jnp.sin(left)], -1)


def max_pool(b, x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")


def average_pool(b, x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "SAME") / 4


def remat(b, x):
    b.block()
    kernel = b.get("kernel", (x.shape[-1], 6))

    @jax.checkpoint
    def body(kernel, x):
        return jnp.tanh(checkpoint_name(jax.nn.relu(x @ kernel), "hidden"))

    return body(kernel, x)


def unknown(b, x):
    return jnp.flip(x, -1)


def constant(b, x):
    return x * np.linspace(0.5, 1.5, x.shape[-1])


CONVOLUTIONS = {
    "conv": lambda b, x: b.conv(x, 8),
    "strided": lambda b, x: b.conv(x, 6, stride=2),
    "pointwise": lambda b, x: b.conv(x, 4, size=1),
    "depthwise": lambda b, x: b.conv(x, x.shape[-1], groups=x.shape[-1]),
    "multiplier": lambda b, x: b.conv(x, 2 * x.shape[-1], groups=x.shape[-1]),
    "grouped": lambda b, x: b.conv(x, 8, groups=2),
    "residual": residual,
    "padded_residual": padded_residual,
    "dense_block": lambda b, x: jnp.concatenate([x, b.conv(x, 4)], -1),
    "batch_norm_train": batch_norm_train,
    "batch_norm_eval": batch_norm_eval,
    "max_pool": max_pool,
    "average_pool": average_pool,
    "relu": lambda b, x: jax.nn.relu(x),
    "gelu": lambda b, x: jax.nn.gelu(x),
    "nested_rule": lambda b, x: twice_rectified(x),
    "jit": lambda b, x: jax.jit(jax.nn.silu)(x),
    "gate": gate,
    "remat": remat,
    "channels_first": channels_first,
    "linear_unit": linear_unit,
}

RESHAPES = {
    "conv": CONVOLUTIONS["conv"],
    "relu": CONVOLUTIONS["relu"],
    "grouped": CONVOLUTIONS["grouped"],
    "depthwise": CONVOLUTIONS["depthwise"],
    "batch_norm_train": batch_norm_train,
    "residual": residual,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "shuffle": shuffle,
    "grouped_gate": grouped_gate,
    "kernel_first": kernel_first,
    "attention": attention,
    "patches": patches,
    "halves": halves,
    "swapped_halves": swapped_halves,
    "front": lambda b, x: x[..., : x.shape[-1] - 2],
    "every_second": lambda b, x: jnp.concatenate([x[..., ::2], x[..., 1::2]], -1),
    "first_added": lambda b, x: x + x[..., :1],
    "positions": lambda b, x: jnp.where(lax.iota(int, x.shape[-1]) % 3 == 0, x, jnp.cos(x)),
    "constant": constant,
    "energy": lambda b, x: x * jnp.tanh(jnp.sum(x * x, -1, keepdims=True)),
    "cumulative": lambda b, x: jnp.cumsum(x, -1),
    "maximum": lambda b, x: x - x.max(-1, keepdims=True),
    "unknown": unknown,
}


def forward(blocks, head, b, x):
    """Blocks, one more convolution, and a head of one or two linear layers."""
    x = b.conv(x, 4)
    for block in blocks:
        x = block(b, x)
    x = jax.nn.relu(b.conv(x, 4, size=1))
    x = jnp.tanh(b.dense(x.reshape(len(x), -1), 6)) if head == "flatten" else x.mean((1, 2))
    return b.dense(x, 3)


def build(blocks, head="flatten", image=(4, 4, 2)):
    """`fn(variables, x) -> (logits, {"stats": ...})` and the structs of its variables."""

    def fn(variables, x):
        b = Builder(variables)
        logits = forward(blocks, head, b, x)
        return logits, {"stats": b.new_stats}

    def init(x):
        b = Builder()
        forward(blocks, head, b, x)
        return b.made

    return fn, jax.eval_shape(init, jax.ShapeDtypeStruct((2, *image), float))


def example(names, head="flatten", seed=0, batch=2):
    """`fn`, variables and images of a network of the named blocks."""
    table = CONVOLUTIONS | RESHAPES
    fn, structs = build([table[name] for name in names], head)
    images = np.random.default_rng(seed).normal(size=(batch, 4, 4, 2))
    return fn, fill(structs, seed), jnp.asarray(images)
