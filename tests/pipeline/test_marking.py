"""`jaxprune watermark`: into a run, and out of whatever network there is."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import jax
import pytest

import jaxprune as jp
from jaxprune import cli, interop, pipeline
from jaxprune.config import ModelConfig, RecalibrationConfig, RunConfig
from jaxprune.train.state import TrainConfig

KEY = str(Path(__file__).parents[1] / "methods" / "test.key")
WIDTHS = {f"conv{i}_{j}": 16 for i in (1, 2, 3) for j in (1, 2)}
MODULE = """
import jaxprune as jp

whole = jp.models.build("vgg_small", num_classes=10, input_shape=(8, 8, 1), widths={widths})
marked = whole.clone(parent=None, widths={narrow})
foreign = jp.models.build("resnet20", num_classes=10, input_shape=(8, 8, 1))
"""


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """The folders of a run that is as it began, and of the one that was marked from it."""
    folder = tmp_path_factory.mktemp("marking")
    training = TrainConfig(epochs=0, batch_size=128, crop_padding=1, flip=False)
    config = RunConfig(
        name="whole",
        out=str(folder / "whole"),
        model=ModelConfig(name="vgg_small", widths=WIDTHS),
        train=training,
        budget=jp.Budget("params/1.5"),
        recalibration=RecalibrationConfig(images=64, batch_size=64),
        finetune=jp.FinetuneConfig(**vars(training)),
        evaluation=jp.EvaluationConfig(images=50, latency_batch=1, latency_repeats=1),
        controls=(),
    )
    pipeline.train(pipeline.open_run(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is at chance
        cli.main([
            "watermark", "embed", str(folder / "whole"), "--out", str(folder / "marked"),
            "--key-file", KEY, "--message", "beef", "--check", "4", "--rate", "0.3",
        ])  # fmt: skip
    return folder


def test_a_run_and_a_saved_network_and_exported_weights_and_a_module_are_read(
    marked, capsys, monkeypatch
):
    network = jp.load(marked / "marked" / "pruned")
    interop.write(marked / "weights.safetensors", *interop.to_torch(network))
    narrow = {f"conv{i}_{j}": network.widths[f"params/conv{i}_{j}/kernel[3]"]
              for i in (1, 2, 3) for j in (1, 2)}  # fmt: skip
    (marked / "mine_marked.py").write_text(MODULE.format(widths=WIDTHS, narrow=narrow))
    monkeypatch.chdir(marked)
    monkeypatch.setattr(sys, "path", list(sys.path))
    by_name = ["--model", "mine_marked:whole", "--input", "1,8,8,1"]
    options = ["--key-file", KEY, "--check", "4"]
    for network, more in (
        ("marked", []),
        ("marked/pruned", ["--bits", "16"]),
        ("marked/pruned", ["--bits", "16", *by_name]),
        ("mine_marked:marked", ["--bits", "16", *by_name]),
        ("mine_marked:marked", ["--message", "beef", *by_name]),
    ):
        cli.main(["watermark", "extract", network, *options, *more])
        out = capsys.readouterr().out
        assert "beef" in out and "the check fits" in out
    sys.modules.pop("mine_marked", None)


def test_capacity_and_payload_are_printed_before_the_work(marked, tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise ValueError("the work")

    monkeypatch.setattr(pipeline, "share_training", refuse)
    with pytest.raises(SystemExit):
        cli.main([
            "watermark", "embed", str(marked / "whole"), "--out", str(tmp_path / "x"),
            "--key-file", KEY, "--message", "beef", "--code", "none",
        ])  # fmt: skip
    out, err = capsys.readouterr()
    assert "are 24 bits; capacity 24 at step 1" in " ".join(out.split()) and "the work" in err
    assert max(map(len, out.splitlines())) <= 80


def test_weights_of_the_usual_widths_are_read_by_name(tmp_path, capsys):
    """An unmarked VGG of no pruning: every count is 0, and that is no mark."""
    module = jp.models.build("vgg_small", num_classes=10, input_shape=(8, 8, 1))
    variables = jp.models.init(module, (8, 8, 1), jax.random.key(0))
    interop.write(tmp_path / "w.safetensors", *interop.to_torch(variables))
    name = ["--model", "vgg_small", "--input", "8,8,1", "--key-file", KEY]
    err = failed(["extract", str(tmp_path / "w.safetensors"), "--message", "c0ff", *name], capsys)
    assert "of 16 bits agree with the message, and random ones do as often" in err


def failed(arguments, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["watermark", *arguments])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "say what to do: jaxprune watermark embed, or"),
        (["extract", "RUN", "--check", "4"], "the mark takes a key file"),
        (["extract", "RUN", "--key-file", "absent"], "the key file absent cannot be read"),
        (["extract", "RUN", "--key-file", __file__], "the check behind the message does not fit"),
        (["extract", "RUN", "--key-file", KEY, "--message", "0123"], "bits agree with the message"),
        (["extract", "RUN", "--key-file", KEY, "--message", "00" * 16], "bear 24 at step 1"),
        (["extract", "RUN", "--key-file", KEY, "--bits", "12"], "a multiple of 8"),
        (["extract", "RUN/pruned", "--key-file", KEY], "with --bits N, or give it with --message"),
        (["extract", "WHOLE", "--key-file", KEY, "--bits", "8"], "does not have pruned yet"),
        (["extract", "x.safetensors", "--key-file", KEY, "--bits", "8"], "with --model, and its"),
        (["extract", "RUN/pruned", "--key-file", KEY, "--bits", "8", "--model", "resnet20",
          "--input", "8,8,1"], "no pruned form of the network that was marked"),
        (["embed", "WHOLE", "--out", "x", "--key-file", KEY, "--message", "00" * 16],
         "use a shorter message"),
        (["embed", "WHOLE", "--out", "x", "--message", "beef"], "the mark takes a key file"),
        (["embed", "WHOLE", "--out", "x", "--message", "xy"], "message is hexadecimal"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(marked, arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": marked / "marked", "RUN/pruned": marked / "marked" / "pruned",
              "WHOLE": marked / "whole"}  # fmt: skip
    assert words in failed([str(places.get(a, a)) for a in arguments], capsys)


def test_help_is_at_80_columns(capsys):
    for verb in ("embed", "extract"):
        with pytest.raises(SystemExit):
            cli.main(["watermark", verb, "--help"])
        out = capsys.readouterr().out
        assert "--key-file" in out and max(map(len, out.splitlines())) <= 80
    cli.main(["watermark", "--help"])
    assert "jaxprune watermark extract" in capsys.readouterr().out
