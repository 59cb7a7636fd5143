import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.train.losses import (
    DistillConfig,
    attention_transfer,
    cross_entropy,
    objective,
    softened_kl,
)
from jaxprune.train.network import Output

RANDOM = np.random.default_rng(0)
STUDENT, TEACHER = RANDOM.normal(size=(2, 5, 4)).astype(np.float32)
LABELS = np.array([0, 3, 1, 1, 2])


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy(smoothing):
    target = np.eye(4)[LABELS] * (1 - smoothing) + smoothing / 4
    expected = -(target * np.log(softmax(STUDENT))).sum(-1).mean()
    assert cross_entropy(jnp.asarray(STUDENT), LABELS, smoothing) == pytest.approx(expected, 1e-6)


def test_softened_kl_is_t_squared_times_the_divergence_from_the_teacher():
    s, t = softmax(STUDENT / 4.0), softmax(TEACHER / 4.0)
    expected = 16 * (t * np.log(t / s)).sum(-1).mean()
    assert softened_kl(STUDENT, TEACHER, 4.0) == pytest.approx(expected, rel=1e-5)
    assert softened_kl(STUDENT, STUDENT, 4.0) == pytest.approx(0, abs=1e-6)


def maps(*shapes):
    return tuple(jnp.asarray(RANDOM.uniform(size=s), jnp.float32) for s in shapes)


def test_attention_transfer_is_the_sum_over_stages_of_mean_squares():
    student, teacher = maps((3, 16), (3, 4)), maps((3, 16), (3, 4))
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        s, t = (np.asarray(x) / np.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
        expected += np.mean((s - t) ** 2)
    assert attention_transfer(student, teacher) == pytest.approx(expected, rel=1e-5)
    scaled = tuple(7 * t for t in student)
    assert attention_transfer(student, scaled) == pytest.approx(0, abs=1e-9)


def test_a_dead_stage_has_finite_gradients():
    zero, (other,) = jnp.zeros((2, 9)), maps((2, 9))
    value, gradient = jax.value_and_grad(lambda m: attention_transfer((m,), (other,)))(zero)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (((2, 9), (2, 4)), ((2, 9), (2, 16)), r"map 1 is \(2, 4\) in the student and \(2, 16\)"),
        (((2, 9),), ((2, 9), (2, 4)), "student has 1 attention maps and the teacher 2"),
        ((), (), "DistillConfig.attention=0"),
    ],
)
def test_maps_that_do_not_match_are_named(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        attention_transfer(maps(*student), maps(*teacher))


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 4\) and the teacher's \(5, 3\)"):
        softened_kl(STUDENT, TEACHER[:, :3], 4.0)


def test_objective_weighs_its_terms():
    student = Output(jnp.asarray(STUDENT), maps((5, 9)), {})
    teacher = Output(jnp.asarray(TEACHER), maps((5, 9)), {})
    config = DistillConfig(attention=10.0, kl=0.5, temperature=2.0)
    loss, terms = objective(student, LABELS, teacher, config)
    expected = terms["cross_entropy"] + 5.0 * terms["attention"] + 0.5 * terms["kl"]
    assert loss == pytest.approx(float(expected), rel=1e-6)
    assert terms["attention"] == attention_transfer(student.maps, teacher.maps)
    assert terms["kl"] == softened_kl(student.logits, teacher.logits, 2.0)

    loss, terms = objective(student, LABELS)
    assert set(terms) == {"cross_entropy"}
    assert loss == terms["cross_entropy"]


def test_terms_of_weight_zero_need_nothing():
    no_maps = Output(jnp.asarray(STUDENT), (), {})
    _, terms = objective(no_maps, LABELS, no_maps, DistillConfig(attention=0))
    assert set(terms) == {"cross_entropy"}


def test_bfloat16_is_summed_in_float32():
    student, teacher = ((m.astype(jnp.bfloat16),) for m in maps((2, 9), (2, 9)))
    assert attention_transfer(student, teacher).dtype == jnp.float32
    assert cross_entropy(jnp.asarray(STUDENT, jnp.bfloat16), LABELS).dtype == jnp.float32


@pytest.mark.parametrize("field", [{"attention": -1.0}, {"kl": -0.1}, {"temperature": 0.0}])
def test_bad_fields_are_named(field):
    with pytest.raises(ValueError, match=f"DistillConfig.{next(iter(field))}"):
        DistillConfig(**field)
