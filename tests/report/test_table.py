import io

from rich.console import Console

from jaxprune.report import table

SUMMARY = {
    "name": "cifar10_vgg16",
    "method": "genetic",
    "seed": 0,
    "out": "runs/cifar10_vgg16",
    "baseline_accuracy": 0.9871,
    "control_accuracy": 0.9889,
    "pruned_accuracy_before_finetune": 0.1234,
    "pruned_accuracy_before_finetune_recalibrated": 0.912,
    "pruned_accuracy": 0.9855,
    "params_before": 138_357_544,
    "params_after": 17_000_000,
    "macs_before": 15_470_264_320,
    "macs_after": 5_100_000_000,
    "latency_before_ms": 1234.5678,
    "latency_after_ms": 321.0,
    "targets": {"params": 8.0, "macs": 3.0},
    "seconds": {"train": 61.0, "search": 14.2, "total": 75.2},
    "versions": {"python": "3.11.7", "jax": "0.10.2"},
}


def shown(summary) -> str:
    file = io.StringIO()
    table.show(summary, Console(file=file, width=80, highlight=False))
    return file.getvalue()


def line(text: str, start: str) -> list[str]:
    (found,) = [row for row in text.splitlines() if row.strip().startswith(start)]
    return found.split()


def test_fits_80_columns_and_cuts_nothing():
    text = shown(SUMMARY)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "unpruned, trained on like the pruned one" in text


def test_figures():
    text = shown(SUMMARY)
    assert line(text, "pruned, fine-tuned")[-5:] == ["98.55%", "−0.16", "pp", "−0.34", "pp"]
    assert line(text, "pruned, as cut")[-3:] == ["12.34%", "−86.37", "pp"]
    assert line(text, "parameters") == ["parameters", "138,357,544", "17,000,000", "8.14×", "8×"]
    assert line(text, "latency")[-5:] == ["1,234.57", "ms", "321.00", "ms", "3.85×"]
    assert line(text, "total") == ["total", "1:15"]


def test_every_control_has_its_line():
    names = ("finetuned", "plain", "scratch", "scratch_distilled", "l1", "l1_uniform")
    controls = {name: {"accuracy": 0.9 + i / 100} for i, name in enumerate(names)}
    text = shown({**SUMMARY, "controls": controls})
    assert max(map(len, text.splitlines())) <= 80
    for name in names:
        row = line(text, table.NETWORKS[name])
        assert f"{controls[name]['accuracy']:.2%}" in row


def test_groups_with_their_proven_gaps():
    name = "params/conv5_1/kernel[3]"
    group = {"size": 512, "kept": 128, "error": 0.12345, "gap": 0.0123}
    text = shown({**SUMMARY, "groups": {name: group, "bare": {"size": 4, "kept": 2, "error": 0.5}}})
    assert line(text, name) == [name, "512", "128", "0.1235", "1.23%"]
    assert line(text, "bare") == ["bare", "4", "2", "0.5000"]
    assert max(map(len, text.splitlines())) <= 80


def test_what_is_absent_is_left_out():
    text = shown({"baseline_accuracy": 0.5, "params_before": 10, "params_after": 5})
    assert line(text, "unpruned") == ["unpruned", "50.00%"]
    assert "MACs" not in text and "stage" not in text and "None" not in text
