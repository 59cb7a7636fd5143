import contextlib

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from jaxprune.report import plots, style

GROUPS = [f"params/conv{stage}_{i}/kernel[3]" for stage in range(1, 6) for i in (1, 2, 3)][:13]
KEPT = np.array([0.5, 0.1, 0.9])


def draw(name, path, count=13):
    groups = GROUPS[:count]
    if name == "sensitivity":
        plots.sensitivity(
            path, KEPT, dict.fromkeys(groups, KEPT * 0.9), 0.93, dict.fromkeys(groups, 0.3)
        )
    elif name == "convergence":
        plots.convergence(path, {g: [3.0, 2.0, np.nan] for g in groups} | {groups[0]: [0.0, 0.0]})
    elif name == "kept_channels":
        plots.kept_channels(path, dict.fromkeys(groups, 1), dict.fromkeys(groups, 512))
    else:
        before = {"params": 8.0, "macs": 3.0}
        points = [
            {"label": "unpruned", "accuracy": 0.99, **before, "kind": "reference"},
            {"label": "pruned", "accuracy": 1.0, "params": 1, "macs": 1, "kind": "result"},
            {"label": "as cut", "accuracy": 0.0, "params": 1, "macs": 1},
        ]
        plots.tradeoff(path, points, before, plots.claims("cifar10", "vgg16"))


@pytest.mark.parametrize("name", ["sensitivity", "convergence", "kept_channels", "tradeoff"])
def test_a_plot_is_a_png_that_is_not_blank_and_repeats_to_the_byte(name, tmp_path):
    first, second = tmp_path / "new" / "a.png", tmp_path / "b.png"
    settings = dict(matplotlib.rcParams)
    draw(name, first)
    draw(name, second)
    image = matplotlib.image.imread(first)
    assert min(image.shape[:2]) > 400 and image[..., :3].std() > 0.05
    assert first.read_bytes() == second.read_bytes()
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize("name", ["sensitivity", "convergence", "kept_channels"])
def test_one_group_is_enough(name, tmp_path):
    draw(name, tmp_path / "a.png", count=1)
    assert (tmp_path / "a.png").stat().st_size > 0


@pytest.mark.parametrize("blocks", [9, 27])
def test_the_name_of_a_panel_keeps_off_the_figure_on_its_right(blocks, tmp_path, monkeypatch):
    drawings, begin = [], style.figure

    @contextlib.contextmanager
    def kept(*arguments):
        with begin(*arguments) as drawing:
            drawings.append(drawing)
            yield drawing

    monkeypatch.setattr(style, "figure", kept)
    groups = [f"params/stage1_block{i}/conv1/kernel[3]" for i in range(blocks)]
    plots.sensitivity(
        tmp_path / "a.png", KEPT, dict.fromkeys(groups, KEPT), 0.9, dict.fromkeys(groups, 1.0)
    )
    plots.convergence(tmp_path / "b.png", {g: [1.0, 0.4] for g in groups})
    for drawing in drawings:
        texts = {t.get_text() for axes in drawing.axes for t in titles(axes)}
        assert len(texts) == blocks + 1
        drawing.draw_without_rendering()  # lays out at the figure's own resolution again
        for axes in drawing.axes:
            if axes.get_visible():
                name, number = (t.get_window_extent() for t in titles(axes))
                assert name.x1 < number.x0


def titles(axes):
    """The texts on the left and on the right above a panel, where there are any."""
    return [t for t in (axes._left_title, axes._right_title) if t.get_text()]


def test_short_names_stay_unique():
    names = ["params/a/conv/kernel[3]", "params/a/conv/kernel[2]", "params/conv/kernel[3]", "w[0]"]
    short = style.short_names(names)
    assert short["params/conv/kernel[3]"] == "conv"
    assert short["params/a/conv/kernel[3]"] == "params/a/conv/kernel[3]"
    assert short["w[0]"] == "w[0]"
    assert len(set(short.values())) == 4


def test_spread_keeps_apart_in_order_and_moves_no_more_than_it_must():
    positions = np.random.default_rng(0).uniform(0, 3, 12)
    placed = style.spread(positions, 0.2)
    order = np.argsort(positions)
    assert np.all(np.diff(placed[order]) >= 0.2 - 1e-12)
    np.testing.assert_allclose(style.spread([5.0, 1.0, 3.0], 0.5), [5.0, 1.0, 3.0])
    np.testing.assert_allclose(style.spread([1.0, 1.0], 0.5), [0.75, 1.25])
    np.testing.assert_allclose(style.spread([2.0, 1.9, 0.0], 0.5), [2.2, 1.7, 0.0])


def test_a_claim_is_drawn_where_there_is_one(tmp_path):
    point = {"label": "pruned", "accuracy": 0.9, "params": 1, "macs": 1, "kind": "result"}
    before = {"params": 8.0, "macs": 3.0}
    plots.tradeoff(tmp_path / "with.png", [point], before, {"params": 8.0})
    plots.tradeoff(tmp_path / "without.png", [point], before, {})
    gold = np.array([0xC9, 0x97, 0x1C]) / 255
    for name, drawn in (("with", True), ("without", False)):
        pixels = matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3]
        assert bool((np.abs(pixels - gold).max(-1) < 0.02).any()) is drawn
