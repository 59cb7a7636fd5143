"""Each supervisor against its formula in NumPy, a library, or a case worked out by hand."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import weibull_min
from sklearn.covariance import LedoitWolf

from jaxprune.supervisors import SUPERVISORS, Watched, autoencoder, mahalanobis, openmax, see
from jaxprune.supervisors.change import auroc_change
from jaxprune.supervisors.logits import energy, max_softmax
from jaxprune.supervisors.metrics import measure
from jaxprune.supervisors.odin import odin

RNG = np.random.default_rng(0)


def test_softmax_and_energy_are_their_formulas_and_keep_to_far_logits():
    logits = RNG.normal(size=(20, 5))
    np.testing.assert_allclose(max_softmax(logits), 1 - softmax(logits, axis=1).max(1))
    np.testing.assert_allclose(energy(logits, 2.0), -2 * np.log(np.exp(logits / 2).sum(1)))
    far = np.array([[1000.0, 0.0], [40.0, 0.0], [41.0, 0.0]])
    assert np.isfinite(energy(far)).all()
    assert max_softmax(far)[1] > max_softmax(far)[2] > 0  # 1 - 1.0 would be the same


def test_odin_moves_along_the_sign_of_a_finite_difference():
    weights, temperature, epsilon = RNG.normal(size=(12, 3)), 5.0, 0.03
    std = (0.5, 0.25, 2.0)
    images = RNG.normal(size=(4, 2, 2, 3))

    def forward(x):
        return jnp.tanh(x.reshape(len(x), -1)) @ weights

    def confidence(x):
        z = np.tanh(x.reshape(1, -1)) @ weights / temperature
        return np.log(softmax(z, axis=1).max())

    with jax.enable_x64(True):
        found = odin(forward, jnp.asarray(images), std, temperature=temperature, epsilon=epsilon)
        still = odin(forward, jnp.asarray(images), std, temperature=temperature, epsilon=0.0)
    for image, score in zip(images, found, strict=True):
        slope = np.zeros_like(image)
        for at in np.ndindex(image.shape):
            step = np.zeros_like(image)
            step[at] = 1e-6
            slope[at] = confidence(image + step) - confidence(image - step)
        moved = image + epsilon / np.array(std) * np.sign(slope)
        assert score == pytest.approx(1 - np.exp(confidence(moved)), rel=1e-6)
    assert (np.asarray(found) < np.asarray(still)).all()  # towards the class


def test_openmax_is_its_formula():
    labels = np.repeat(np.arange(3), 40)
    logits = 4 * np.eye(3)[labels] + RNG.normal(size=(120, 3))
    logits[0] = [-3, 9, 0]  # wrong, so that it counts neither for the mean nor for the tail
    fitted = openmax.fit(logits, labels, tail=10)
    right = logits.argmax(1) == labels
    mean = logits[right & (labels == 0)].mean(0)
    np.testing.assert_allclose(fitted.means[0], mean)
    far = np.sort(np.linalg.norm(logits[right & (labels == 0)] - mean, axis=1))[-10:]
    shape, _, scale = weibull_min.fit(far - far[0] + 1, floc=0)

    z = np.array([3.0, 5.0, -1.0])
    distance = np.linalg.norm(z - fitted.means, axis=1) - fitted.start + 1
    cdf = np.array([
        weibull_min.cdf(max(d, 0), k, scale=s)
        for d, k, s in zip(distance, fitted.shape, fitted.scale, strict=True)
    ])  # fmt: skip
    assert (fitted.shape[0], fitted.scale[0]) == pytest.approx((shape, scale))
    weight = np.ones(3)
    weight[1], weight[0] = 1 - cdf[1], 1 - cdf[0] / 2  # ranks 0 and 1 of alpha = 2
    known = softmax([*(weight * z), np.sum((1 - weight) * z)])[:3]
    assert openmax.score(fitted, z[None], alpha=2)[0] == pytest.approx(1 - known.max())
    # Beyond every tail all of the logit is unknown.
    assert openmax.score(fitted, np.array([[60.0, 0, 0]]))[0] > 0.99
    assert openmax.score(fitted, fitted.means).max() < 0.1


def test_a_class_of_few_images_has_half_of_them_as_its_tail():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(2), (30, 12))
    logits = 9 * np.eye(2)[labels] + rng.normal(size=(42, 2))
    with pytest.warns(UserWarning, match="takes 40 training images .* class 1 has 12"):
        fitted = openmax.fit(logits, labels, tail=20)
    for k, tail in ((0, 15), (1, 6)):
        its = logits[labels == k]
        far = np.sort(np.linalg.norm(its - its.mean(0), axis=1))[-tail:]
        shape, _, scale = weibull_min.fit(far - far[0] + 1, floc=0)
        assert (fitted.shape[k], fitted.scale[k]) == pytest.approx((shape, scale))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        openmax.fit(logits, labels, tail=6)


def test_openmax_takes_classes_that_are_never_right_and_refuses_absent_ones():
    labels = np.array([0, 0, 1, 1])
    logits = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0]])  # class 1 never right, one distance
    assert np.isfinite(openmax.score(openmax.fit(logits, labels), logits)).all()
    with pytest.raises(ValueError, match="class 1 has 1 images"):
        openmax.fit(logits[:3], labels[:3])


def test_mahalanobis_is_the_distance_under_the_shrunk_covariance():
    labels = np.repeat([0, 1, 2], 50)
    features = RNG.normal(size=(150, 6)) @ RNG.normal(size=(6, 6)) + 5 * labels[:, None]
    fitted = mahalanobis.fit(features, labels)
    within = features - np.stack([features[labels == k].mean(0) for k in range(3)])[labels]
    precision = LedoitWolf(assume_centered=True).fit(within).get_precision()
    shown = RNG.normal(size=(7, 6))
    expected = [min(float((f - m) @ precision @ (f - m)) for m in fitted.means) for f in shown]
    np.testing.assert_allclose(mahalanobis.score(fitted, shown), expected)
    with pytest.raises(ValueError, match="never vary within a class"):
        mahalanobis.fit(np.ones((4, 3)), np.array([0, 0, 1, 1]))


@pytest.fixture(scope="module")
def blobs():
    """Images of two classes, and others; a network of one linear layer."""

    def images(left, count=96):
        found = 0.1 * RNG.normal(size=(count, 7, 5, 1)).astype(np.float32)
        for i, on_the_left in enumerate(left):
            found[i, :, (slice(0, 2) if on_the_left else slice(3, 5))] += 2
        return found

    labels = np.arange(96) % 2
    odd = 0.1 * RNG.normal(size=(96, 7, 5, 1)).astype(np.float32)
    odd[:, 2:4] += 2
    weights = np.zeros((35, 2), np.float32)
    for at in range(35):
        weights[at, int(at % 5 < 2.5)] = 0.5

    def forward(variables, x):
        features = x.reshape(len(x), -1)
        return features @ variables, features

    watched = Watched(forward, jnp.asarray(weights), (0.5,), batch_size=40)
    return watched, see(watched, images(labels), labels), images(labels), labels, odd


@pytest.mark.parametrize("name", SUPERVISORS)
def test_every_supervisor_tells_what_is_unlike_the_training_images(blobs, name):
    watched, training, images, labels, odd = blobs
    score = SUPERVISORS[name](watched, training, 0)
    inside, outside = (score(see(watched, shown, labels)) for shown in (images, odd))
    assert inside.shape == outside.shape == (96,)
    outlier = np.arange(192) >= 96
    found = measure(np.concatenate([inside, outside]), outlier, ~outlier)
    assert found.auroc > 0.9
    again = SUPERVISORS[name](watched, training, 0)(see(watched, images, labels))
    np.testing.assert_array_equal(inside, again)


def test_see_is_the_network_whatever_the_batches(blobs):
    watched, _, images, labels, _ = blobs
    shown = see(watched, images, labels)
    np.testing.assert_allclose(shown.features, images.reshape(96, -1), rtol=1e-6)
    np.testing.assert_allclose(
        shown.logits, shown.features @ np.asarray(watched.variables), rtol=1e-4, atol=1e-5
    )


def test_the_autoencoder_compiles_once_and_gives_back_images_of_odd_sides(blobs, caplog):
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        variables = autoencoder.fit(blobs[1].images, 1, epochs=2)
    assert caplog.text.count("Compiling jit(step)") == 1
    copies = autoencoder.Autoencoder().apply(variables, blobs[1].images)
    assert copies.shape == blobs[1].images.shape


def test_a_change_of_auroc_is_the_difference_with_an_interval():
    inliers, outliers = RNG.normal(size=80), RNG.normal(size=60) + 1
    outlier = np.arange(140) >= 80

    def auroc(a, b):
        return measure(np.concatenate([b, a]), outlier, ~outlier).auroc

    worse = outliers - 0.8
    found = auroc_change((outliers, inliers), (worse, inliers))
    assert found.mean == pytest.approx(auroc(worse, inliers) - auroc(outliers, inliers), abs=1e-6)
    assert found.low < found.mean < found.high < 0
    same = auroc_change((outliers, inliers), (3 * outliers + 1, 3 * inliers + 1))
    assert same == (0, 0, 0)
