"""Small random networks in plain JAX, from a list of the names of their blocks."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from laws import fill
from own_rules import flash, mlp, product, quantised

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
    if c % groups:
        return x
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
    if c % groups:
        return x
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
    if c % 2:
        return x
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
    left, right = jnp.split(x, [x.shape[-1] // 2], -1)
    return jnp.concatenate([right, b.conv(left, 4)], -1)


def swapped_halves(b, x):
    left, right = jnp.split(x, [x.shape[-1] // 2], -1)
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


def observed(b, x):
    jax.debug.callback(lambda h: None, x)  # an equation without a result
    return jnp.tanh(x)


def unknown(b, x):
    eye = jnp.broadcast_to(jnp.eye(x.shape[2]), (*x.shape[:3], x.shape[2]))
    return x + 0.1 * lax.linalg.triangular_solve(2 * eye, x, left_side=True)


def permuted(b, x):
    """Channels in a constant order, some of them twice, and others set by a constant index."""
    c = x.shape[-1]
    order = np.random.default_rng(c).permutation(c)
    y = jnp.take(x, jnp.asarray(order), axis=-1) + x[..., order[::-1]] * 0.5
    return y.at[..., order[: c // 3]].set(jnp.cos(y[..., order[-(c // 3) :]]))


def repeated(b, x):
    return jnp.concatenate([x, jnp.sin(x)], -1)[..., np.arange(2 * x.shape[-1]) // 2]


def interleaved(b, x):
    c = x.shape[-1] // 2 * 2
    y = jnp.ones((*x.shape[:3], c))
    return y.at[..., ::2].set(x[..., : c // 2]).at[..., 1::2].add(x[..., c // 2 : c])


def fourier(b, x):
    b.block()
    scale = b.get("scale", (x.shape[-1],))
    return jnp.fft.irfft2(jnp.fft.rfft2(x, axes=(1, 2)) * scale, x.shape[1:3], axes=(1, 2))


def along_time(b, x):
    """Rows in an order of their own for each channel, and added to others."""
    order = jnp.argsort(jnp.round(8 * x), 1)
    y = jnp.take_along_axis(x, order, 1)
    add = jax.vmap(jax.vmap(lambda x, i, y: x.at[i].add(y)), -1, -1)
    return add(x, order[:, :2, 0], 0.5 * y[:, :2])


def constant(b, x):
    return x * np.linspace(0.5, 1.5, x.shape[-1])


def modulated(b, x):
    """A kernel per sample, which `vmap` makes a convolution with samples as its groups."""
    style = jnp.tanh(b.dense(x.mean((1, 2)), x.shape[-1]))
    b.block()
    kernel = b.get("kernel", (3, 3, x.shape[-1], 6))

    def convolved(x, style):
        scaled = kernel * (1 + style[:, None])
        return lax.conv_general_dilated(
            x[None], scaled, (1, 1), "SAME", dimension_numbers=DIMENSIONS
        )[0]

    return jax.vmap(convolved)(x, style)


def conditional_kernels(b, x):
    """Kernels mixed for each sample; samples side by side as the groups of one convolution."""
    n, h, w, c = x.shape
    mixture = jax.nn.softmax(b.dense(x.mean((1, 2)), 2))
    b.block()
    kernels = jnp.einsum("ne,ehwio->hwino", mixture, b.get("kernel", (2, 3, 3, c, 6)))
    y = lax.conv_general_dilated(
        x.transpose(1, 2, 0, 3).reshape(1, h, w, n * c), kernels.reshape(3, 3, c, n * 6), (1, 1),
        "SAME", dimension_numbers=DIMENSIONS, feature_group_count=n,
    )  # fmt: skip
    return y.reshape(h, w, n, 6).transpose(2, 0, 1, 3)


# Structures of known networks.


def narrowed(b, x, most=16):
    """Keeps deep networks small."""
    return b.conv(x, 6, size=1) if x.shape[-1] > most else x


def multiplier(b, x):
    x = narrowed(b, x)
    return b.conv(x, 2 * x.shape[-1], groups=x.shape[-1])


def dilated(b, x):
    b.block()
    kernel = b.get("kernel", (3, 3, x.shape[-1], 6))
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", rhs_dilation=(2, 2), dimension_numbers=DIMENSIONS
    )


def transposed(b, x):
    b.block()
    up = lax.conv_transpose(x, b.get("kernel", (2, 2, x.shape[-1], 6)), (2, 2), "SAME")
    return up[:, ::2, ::2] + up[:, 1::2, 1::2]


def one_dimensional(b, x):
    n, h, w, c = x.shape
    b.block()
    y = lax.conv_general_dilated(
        x.reshape(n, h * w, c), b.get("kernel", (3, c, 6)), (1,), "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )  # fmt: skip
    return jnp.tanh(y).reshape(n, h, w, 6)


def three_dimensional(b, x):
    b.block()
    kernel = b.get("kernel", (2, 2, 2, x.shape[-1], 6))
    y = lax.conv_general_dilated(
        jnp.stack([x, jnp.sin(x)], 1), kernel, (1, 1, 1), "SAME",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )  # fmt: skip
    return y.max(1)


def blurred(b, x):
    """One filter for all channels."""
    line = jnp.array([0.25, 0.5, 0.25])
    kernel = jnp.repeat(jnp.outer(line, line)[:, :, None, None], x.shape[-1], -1)
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME",
        dimension_numbers=DIMENSIONS, feature_group_count=x.shape[-1],
    )  # fmt: skip


def inception(b, x):
    return jnp.concatenate([b.conv(x, 2, size=1), jnp.tanh(b.conv(x, 4)), max_pool(b, x)], -1)


def u_net(b, x):
    down = jax.nn.relu(b.conv(x, 6, stride=2))
    up = jax.image.resize(down, (*x.shape[:3], 6), "nearest")
    return b.conv(jnp.concatenate([x, up], -1), 6)


def pyramid(b, x):
    top = b.conv(jax.nn.relu(b.conv(x, 8, stride=2)), 4, size=1)
    side = b.conv(x, 4, size=1)
    return b.conv(side + jax.image.resize(top, side.shape, "linear"), 6)


def pixel_shuffle(b, x):
    y = b.conv(x, 16, size=1)
    n, h, w, _ = y.shape
    y = y.reshape(n, h, w, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, 4)
    return lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")


def conv_next(b, x):
    c = x.shape[-1]
    y = layer_norm(b, b.conv(x, c, groups=c))
    y = b.dense(jax.nn.gelu(b.dense(y, 8)), c)
    b.block()
    return x + y * b.get("scale", (c,))


def instance_norm(b, x):
    b.block()
    mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    return (x - mean) * lax.rsqrt(var + 0.1) * b.get("scale", (x.shape[-1],))


def rms_norm(b, x):
    b.block()
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * b.get("scale", (x.shape[-1],))


def experts(b, x):
    """Each place goes to one of three experts, sorted by which, and comes back."""
    n, h, w, c = x.shape
    y = x.reshape(n * h * w, c)
    chosen = jnp.argmax(jnp.round(8 * b.dense(y, 3)), -1)
    order = jnp.argsort(chosen)
    sizes = jnp.bincount(chosen, length=3).astype(jnp.int32)
    b.block()
    up, down = b.get("kernel", (3, c, 6)), b.get("kernel_down", (3, 6, c))
    y = lax.ragged_dot(jnp.tanh(lax.ragged_dot(y[order], up, sizes)), down, sizes)
    return x + jnp.zeros_like(y).at[order].set(y).reshape(x.shape)


# Attention.


def heads(b, x):
    n, h, w, c = x.shape
    y = x.reshape(n, h * w, c)
    projected = []
    for size in (4, 4, 2):
        b.block()
        projected.append(jnp.einsum("ntc,chd->nthd", y, b.get("kernel", (c, 2, size))))
    q, k, v = projected
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k))
    b.block()
    out = jnp.einsum("nhqk,nkhd,hdo->nqo", weights, v, b.get("kernel", (2, 2, c)))
    return x + out.reshape(x.shape)


def fused_heads(b, x):
    n, h, w, c = x.shape
    qkv = b.dense(x.reshape(n, h * w, c), 24).reshape(n, h * w, 3, 2, 4)
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", qkv[:, :, 0], qkv[:, :, 1]))
    out = jnp.einsum("nhqk,nkhd->nqhd", weights, qkv[:, :, 2]).reshape(n, h * w, 8)
    return x + b.dense(out, c).reshape(x.shape)


def flat_heads(b, x, queries, keys, mixed):
    """Flat kernels cut into heads of width 3; `mixed(q, k, v)` has axes (n, tokens, heads, d)."""
    n, h, w, c = x.shape
    y = x.reshape(n, h * w, c)
    q, k, v = (b.dense(y, 3 * m).reshape(n, h * w, m, 3) for m in (queries, keys, keys))
    return x + b.dense(mixed(q, k, v).reshape(n, h * w, 3 * queries), c).reshape(x.shape)


def grouped_heads(b, x):
    def mixed(q, k, v):
        k, v = jnp.repeat(k, 2, 2), jnp.repeat(v, 2, 2)
        weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k))
        return jnp.einsum("nhqk,nkhd->nqhd", weights, v)

    return flat_heads(b, x, 4, 2, mixed)


def grouped_heads_first(b, x):
    def mixed(q, k, v):
        q, k, v = (y.swapaxes(1, 2) for y in (q, k, v))
        k, v = (jnp.repeat(y, 2, 1) for y in (k, v))
        return (jax.nn.softmax(q @ k.swapaxes(2, 3)) @ v).swapaxes(1, 2)

    return flat_heads(b, x, 4, 2, mixed)


def one_key_head(b, x):
    def mixed(q, k, v):
        weights = jax.nn.softmax(jnp.einsum("nqhd,nkd->nhqk", q, k[:, :, 0]))
        return jnp.einsum("nhqk,nkd->nqhd", weights, v[:, :, 0])

    return flat_heads(b, x, 2, 1, mixed)


def scaled_heads(b, x):
    def mixed(q, k, v):
        weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k))
        weights = jnp.einsum("...hqk,h->...hqk", weights, jnp.ones(q.shape[2]))
        return jnp.einsum("nhqk,nkhd->nqhd", weights, v)

    return flat_heads(b, x, 2, 2, mixed)


def class_token(b, x):
    n, h, w, c = x.shape
    b.block()
    token = jnp.broadcast_to(b.get("bias", (1, 1, c)), (n, 1, c))
    y = jnp.concatenate([token, x.reshape(n, h * w, c)], 1)
    mixed = y + b.get("scale", (h * w + 1, c))
    return x * jnp.tanh(mixed[:, 0] + mixed[:, jnp.array([1, 0])].sum(1))[:, None, None]


def windows(b, x):
    middle = lax.dynamic_slice_in_dim(x, x.shape[1] // 2, 1, 1)
    return x.at[:, 0].add(middle[:, 0])


# Reshapes that also transpose, what is filled in, and what is drawn.


def fortran_order(b, x):
    """As code that was written for another library has it: the first axis runs fastest."""
    n, h, w, c = x.shape
    y = jnp.sin(x).reshape((n * h, w, c), order="F").reshape((n, h, w, c), order="F")
    columns = x.reshape((n, h * w * c), order="F")
    b.block()
    return x + y + (columns @ b.get("kernel", (h * w * c, 3))).sum(-1)[:, None, None, None]


def one_concatenated(b, x):
    """`jnp.concatenate` of one array, which is a reshape with `dimensions`."""
    *rest, c = x.shape
    if c % 2:
        return jnp.concatenate(x[None], -1)
    return jnp.concatenate(jnp.moveaxis(x.reshape(*rest, c // 2, 2), -1, 0), -1)


def filled(b, x):
    """Masks as transformers add them, and Python numbers that fill a whole array."""
    n, h, w, c = x.shape
    y = x.reshape(n, h * w, c)
    q, k = b.dense(y, 6), b.dense(y, 6)
    seen = jnp.arange(h * w)[:, None] >= jnp.arange(h * w)
    weights = jax.nn.softmax(jnp.einsum("nic,njc->nij", q, k) + jnp.where(seen, 0.0, -1e9))
    y = jnp.full(x.shape, 0.3) * x + jnp.where(x > 0, 0.3, 0.7) + jnp.full_like(x, 2)
    return y + jnp.einsum("nij,njc->nic", weights, x.reshape(n, h * w, c)).reshape(x.shape)


def dropout(b, x):
    kept = jax.random.bernoulli(jax.random.key(b.count), 0.8, x.shape)
    return jnp.where(kept, x / 0.8, 0)


def random_features(b, x):
    """A projection that is drawn, never trained, and signs that are."""
    key, c = jax.random.PRNGKey(b.count), x.shape[-1]
    y = jnp.cos(x @ jax.random.normal(key, (c, 6), x.dtype) / c**0.5)
    return y * jax.random.rademacher(jax.random.fold_in(key, 1), (6,), x.dtype)


def keys(b, x):
    """One key for each channel and for each image."""
    c = x.shape[-1]
    signs = jax.vmap(lambda k: jax.random.normal(k, (3,), x.dtype))(
        jax.random.split(jax.random.key(b.count), c)
    )
    per_image = jax.vmap(lambda k, y: y * jax.random.uniform(k, (c,), x.dtype))
    return per_image(jax.random.split(jax.random.key(1), len(x)), x) + signs[:, 1]


def bits(b, x):
    """The bytes of a number; the last one holds its sign."""
    sign = lax.bitcast_convert_type(x, jnp.uint8)[..., -1] >> 7
    return x + jnp.where(sign == 1, 0.5, 0.25) * x


# Control flow and derivative rules.


@jax.custom_vjp
def clipped(x, scale):
    return jnp.tanh(x) * scale


clipped.defvjp(
    lambda x, scale: (clipped(x, scale), (x, scale)),
    lambda kept, g: (jnp.clip(g, -0.1, 0.1) * kept[1] + 0 * kept[0], None),
)


def flash_heads(b, x):
    n, h, w, c = x.shape
    y = x.reshape(n, h * w, c)
    projected = []
    for size in (4, 4, 2):
        b.block()
        projected.append(jnp.einsum("ntc,chd->nthd", y, b.get("kernel", (c, 2, size))))
    b.block()
    out = jnp.einsum("nqhd,hdo->nqo", flash(*projected), b.get("kernel", (2, 2, c)))
    return x + out.reshape(x.shape)


def quantised_dense(b, x):
    b.block()
    return quantised(jnp.tanh(x), b.get("kernel", (x.shape[-1], 6)), b.get("bias", (6,)))


def own_jvp_product(b, x):
    b.block()
    return product(jnp.cos(x), b.get("kernel", (x.shape[-1], 6)))


def recomputed(b, x):
    b.block()
    c = x.shape[-1]
    up, down = b.get("kernel", (c, 6)), b.get("kernel_down", (6, c))
    return mlp(x, up, b.get("bias", (6,)), 0.2 * down)


def scanned_layers(b, x):
    b.block()
    c = x.shape[-1]
    kernels = (b.get("kernel", (3, c, 6)), b.get("kernel_down", (3, 6, c)) * 0.2)

    def layer(h, kernels):
        up, down = kernels
        return h + jax.nn.relu(h @ up) @ down, h.mean((1, 2))

    h, means = lax.scan(layer, x, kernels)
    return h * jnp.tanh(means.max(0))[:, None, None]


def recurrent(b, x):
    b.block()
    c = x.shape[-1]
    w_in, w = b.get("kernel", (c, 6)), 0.3 * b.get("kernel_carry", (6, 6))

    def cell(h, y):
        h = jnp.tanh(y @ w_in + h @ w)
        return h, h

    _, hs = lax.scan(cell, jnp.zeros((*x.shape[:1], x.shape[2], 6)), x.swapaxes(0, 1))
    return hs.swapaxes(0, 1)


def exchanged(b, x):
    def body(i, carry):
        first, second = carry
        return jnp.sin(second) + first * 0.5, first

    return sum(lax.fori_loop(0, 3, body, (x, jnp.ones_like(x))))


def conditional(b, x):
    b.block()
    bias = b.get("bias", (x.shape[-1],))
    return lax.cond(bias[0] > 0, lambda x: jnp.cos(x) + bias, lambda x: clipped(x, bias[1]), x)


def nested(b, x):
    b.block()
    kernel = 0.5 * b.get("kernel", (x.shape[-1], x.shape[-1]))

    @jax.checkpoint
    def layer(h, _):
        return jax.vmap(lambda y: lax.cond(True, lambda y: y @ kernel, jnp.tanh, y))(h) + h, None

    return jax.jit(lambda x: lax.scan(layer, x, length=2)[0])(x)


CONVOLUTIONS = {
    "conv": lambda b, x: b.conv(x, 8),
    "strided": lambda b, x: b.conv(x, 6, stride=2),
    "pointwise": lambda b, x: b.conv(x, 4, size=1),
    "depthwise": lambda b, x: b.conv(x, x.shape[-1], groups=x.shape[-1]),
    "multiplier": multiplier,
    "grouped": lambda b, x: b.conv(x, 8, groups=2 - x.shape[-1] % 2),
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
    "modulated": modulated,
    "conditional_kernels": conditional_kernels,
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
    "front": lambda b, x: x[..., : max(4, x.shape[-1] - 2)],
    "every_second": lambda b, x: jnp.concatenate([x[..., ::2], x[..., 1::2]], -1),
    "first_added": lambda b, x: x + x[..., :1],
    "positions": lambda b, x: jnp.where(lax.iota(int, x.shape[-1]) % 3 == 0, x, jnp.cos(x)),
    "constant": constant,
    "energy": lambda b, x: x * jnp.tanh(jnp.sum(x * x, -1, keepdims=True)),
    "cumulative": lambda b, x: jnp.cumsum(x, -1),
    "maximum": lambda b, x: x - x.max(-1, keepdims=True),
    "unknown": unknown,
    "permuted": permuted,
    "repeated": repeated,
    "interleaved": interleaved,
    "fourier": fourier,
    "along_time": along_time,
    "summed": lambda b, x: x * jnp.tanh(jnp.sin(x) @ jnp.ones((x.shape[-1],) * 2)),
    "turned": lambda b, x: x + jnp.flip(jnp.sin(x), (1, -1)),
    "sorted": lambda b, x: jnp.sort(x, -1),
}

STRUCTURES = {
    "conv": CONVOLUTIONS["conv"],
    "relu": CONVOLUTIONS["relu"],
    "residual": residual,
    "batch_norm_eval": batch_norm_eval,
    "dilated": dilated,
    "transposed": transposed,
    "one_dimensional": one_dimensional,
    "three_dimensional": three_dimensional,
    "blurred": blurred,
    "inception": inception,
    "u_net": u_net,
    "pyramid": pyramid,
    "pixel_shuffle": pixel_shuffle,
    "conv_next": conv_next,
    "instance_norm": instance_norm,
    "rms_norm": rms_norm,
    "experts": experts,
    "heads": heads,
    "fused_heads": fused_heads,
    "grouped_heads": grouped_heads,
    "grouped_heads_first": grouped_heads_first,
    "one_key_head": one_key_head,
    "scaled_heads": scaled_heads,
    "class_token": class_token,
    "scanned_layers": scanned_layers,
    "recurrent": recurrent,
    "exchanged": exchanged,
    "conditional": conditional,
    "nested": nested,
    "flash": flash_heads,
    "quantised_dense": quantised_dense,
    "own_jvp_product": own_jvp_product,
    "recomputed": recomputed,
    "clipped": lambda b, x: clipped(x, 0.7),
    "rows": lambda b, x: x[:, jnp.arange(x.shape[1])[::-1]] * 0.5,
    "windows": lambda b, x: x.at[:, 0].add(
        lax.dynamic_slice_in_dim(x, x.shape[1] // 2, 1, 1)[:, 0]
    ),
    "running": lambda b, x: jnp.cumsum(jnp.tanh(x), 1) + jnp.sort(x, 2),
    "global_max": lambda b, x: x * jax.nn.softplus(x.max((1, 2), keepdims=True)),
    "elu": lambda b, x: jax.nn.elu(x) + jax.nn.sigmoid(x),
    "mish": lambda b, x: jax.nn.mish(x) - jax.nn.leaky_relu(x),
    "fortran_order": fortran_order,
    "one_concatenated": one_concatenated,
    "filled": filled,
    "dropout": dropout,
    "random_features": random_features,
    "keys": keys,
    "bits": bits,
    "observed": observed,
}

BLOCKS = CONVOLUTIONS | RESHAPES | STRUCTURES
HEADS = ("flatten", "mean", "two")


def forward(blocks, head, b, x):
    """Blocks, one more convolution, and a head of one or two linear layers, or two heads."""
    x = b.conv(x, 4)
    for block in blocks:
        x = narrowed(b, block(b, x))
    x = jax.nn.relu(b.conv(x, 4, size=1))
    if head == "two":  # as a detector's: what it is, and where
        return b.dense(x.mean((1, 2)), 3), b.conv(jax.nn.relu(b.conv(x, 6)), 4, size=1)
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
    fn, structs = build([BLOCKS[name] for name in names], head)
    images = np.random.default_rng(seed).normal(size=(batch, 4, 4, 2))
    return fn, fill(structs, seed), jnp.asarray(images)


def random_network(seed, deepest=12):
    """The names of some blocks and a head, and the seed: a network as JSON."""
    rng = np.random.default_rng(seed)
    names = [str(n) for n in rng.choice(sorted(BLOCKS), rng.integers(1, deepest + 1))]
    return {"blocks": names, "head": HEADS[rng.integers(len(HEADS))], "seed": seed}
