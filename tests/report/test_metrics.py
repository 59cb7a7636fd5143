import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.report import metrics


def test_records_come_back_as_plain_values(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    with metrics.MetricsWriter(path) as writer:
        writer.write(step=np.int64(3), loss=jnp.float32(0.5), widths=np.array([1, 2]))
        writer.write(step=4, loss=float("nan"), stage="größe")
    assert metrics.read(path) == [
        {"step": 3, "loss": 0.5, "widths": [1, 2]},
        {"step": 4, "loss": None, "stage": "größe"},
    ]


def test_a_record_is_on_disk_before_the_writer_is_closed(tmp_path):
    writer = metrics.MetricsWriter(tmp_path / "metrics.jsonl")
    writer.write(step=1)
    assert metrics.read(tmp_path / "metrics.jsonl") == [{"step": 1}]
    writer.close()


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', "x" * 200_000])
def test_a_torn_last_line_is_dropped_by_reader_and_writer(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + torn)
    assert metrics.read(path) == [{"step": 1}]
    with metrics.MetricsWriter(path) as writer:
        writer.write(step=2)
    assert metrics.read(path) == [{"step": 1}, {"step": 2}]


def test_opening_again_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in range(3):
        with metrics.MetricsWriter(path) as writer:
            writer.write(step=step)
    assert [r["step"] for r in metrics.read(path)] == [0, 1, 2]


def test_every_line_is_strict_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics.MetricsWriter(path) as writer:
        writer.write(loss=float("inf"), text="two\nlines")

    def refuse(constant):
        raise AssertionError(constant)

    (line,) = path.read_text().splitlines()
    assert json.loads(line, parse_constant=refuse) == {"loss": None, "text": "two\nlines"}


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        metrics.read(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1 is not a JSON object"):
        metrics.read(path)


def test_steps_after_a_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics.drop_from(path, "train", 0)  # nothing there yet
    with metrics.MetricsWriter(path) as writer:
        for stage, steps in (("train", 4), ("finetune", 6)):
            for step in range(steps):
                writer.write(stage=stage, step=step)
    metrics.drop_from(path, "finetune", 3)
    found = [(r["stage"], r["step"]) for r in metrics.read(path)]
    assert found == [("train", s) for s in range(4)] + [("finetune", s) for s in range(3)]
