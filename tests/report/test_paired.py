import io

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from jaxprune.report import answers, paired


def of(**right):
    return answers.Answers("test", "digits", "hash", {n: np.array(r) for n, r in right.items()})


def test_what_is_written_is_read(tmp_path):
    rng = np.random.default_rng(0)
    written = of(unpruned=rng.random(7) < 0.5, pruned=rng.random(7) < 0.5)
    answers.write(tmp_path, written)
    read = answers.read(tmp_path)
    assert (read.part, read.data, read.images, read.count) == ("test", "digits", "hash", 7)
    for name, right in written.right.items():
        np.testing.assert_array_equal(read.right[name], right)


def test_the_interval_is_that_of_a_mean_over_images():
    rng = np.random.default_rng(1)
    first, second = rng.random(10_000) < 0.9, rng.random(10_000) < 0.88
    gap = first.astype(float) - second
    found = paired.difference(first, second)
    assert found.mean == pytest.approx(gap.mean()) and not found.tie
    half = 1.96 * gap.std() / 100
    assert found.low == pytest.approx(gap.mean() - half, abs=4e-4)
    assert found.high == pytest.approx(gap.mean() + half, abs=4e-4)
    assert str(found).startswith("+") and "tie" not in str(found)
    # The same answers do not differ, however few they are; one image more is not told from chance.
    assert paired.difference(first, first) == paired.Difference(0.0, 0.0, 0.0)
    assert "a tie" in str(paired.difference(np.ones(100, bool), np.arange(100) > 0))


def test_each_run_by_itself_every_two_of_them_and_their_mean_over_seeds():
    one = of(unpruned=[True] * 4, as_cut=[False] * 4, pruned=[True, True, False, False])
    two = of(unpruned=[True] * 4, as_cut=[False] * 4, pruned=[True, True, True, False])
    assert paired.within(one).keys() == {"unpruned"}
    assert paired.within(one)["unpruned"].mean == -0.5
    runs = {"a": one, "b": two, "c": one}
    between = paired.between(runs)
    assert list(between) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert between["a", "b"].mean == -0.25 and between["a", "c"].tie
    seeds = paired.over_seeds([one, two])
    low, high = stats.t.interval(0.95, 1, loc=-0.375, scale=0.125)
    assert seeds["unpruned"] == paired.Difference(-0.375, pytest.approx(low), pytest.approx(high))
    file = io.StringIO()
    pairs = paired.Pairs(runs, {("a", "b"): seeds})
    paired.show(pairs, Console(file=file, width=80, highlight=False))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "mean of 2 seeds" in text
    assert "62.50% (50.00–75.00)" in text
