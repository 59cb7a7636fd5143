import dataclasses
import errno
import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import jaxprune
import jaxprune.pipeline
from jaxprune import cli, interrupts
from jaxprune.config import RunConfig, save
from jaxprune.methods import L1, METHODS
from jaxprune.methods.rounds import Schedule
from jaxprune.pipeline import Stopped, config_of
from jaxprune.report.answers import Answers

CONFIG = """
from jaxprune.config import RunConfig
config = RunConfig(name="mine", seed=7)
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(CONFIG)
    return str(file)


@pytest.fixture
def pipeline(monkeypatch):
    """A pipeline that keeps the config it was given, and fails with `error` where there is one."""
    seen = SimpleNamespace(config=None, error=None)

    def run(config):
        seen.config = config
        if seen.error:
            raise seen.error
        return {"name": config.name, "baseline_accuracy": 0.5, "pruned_accuracy": 0.75}

    monkeypatch.setattr(jaxprune, "pipeline", SimpleNamespace(run=run), raising=False)
    return seen


def stopped(capsys, *arguments) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_run_hands_over_the_config_and_ends_with_the_table(path, pipeline, capsys):
    cli.main(["run", path])
    assert (pipeline.config.name, pipeline.config.seed) == ("mine", 7)
    out, err = capsys.readouterr()
    assert "pruned, fine-tuned" in out and "75.00%" in out and err == ""


def test_a_field_is_overridden_and_the_others_stay(path, pipeline):
    cli.main(["run", path, "--method.search.population", "256", "--out", "runs/x", "--controls"])
    assert pipeline.config.method.search.population == 256
    assert (pipeline.config.out, pipeline.config.controls) == ("runs/x", ())
    assert (pipeline.config.name, pipeline.config.seed) == ("mine", 7)
    cli.main(["run", path, "--controls", "plain", "l1"])
    assert pipeline.config.controls == ("plain", "l1")


def fields(kind, prefix=""):
    """Every leaf of a config as the command line spells it."""
    for field in dataclasses.fields(kind):
        value = getattr(kind, field.name)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from fields(value, name + ".")
        else:
            yield name


def test_help_after_a_config_documents_every_field(path, capsys):
    code, out, _ = stopped(capsys, "run", path, "--help")
    assert code == 0
    lines = [line.strip(" │") for line in out.splitlines()]
    for name in fields(RunConfig()):
        (row,) = [
            i for i, text in enumerate(lines) if text.startswith((f"--{name} ", f"--{name},"))
        ]
        # A flag whose two forms are too long for one line has its text a line later.
        described = lines[row + 2 if lines[row].endswith(",") else row + 1]
        assert described and not described.startswith(("--", "(default")), f"{name} has no text"
    assert "(default: mine)" in out


def test_help_without_a_config_shows_the_defaults(capsys):
    code, out, _ = stopped(capsys, "run", "--help")
    assert code == 0 and "--method.search.population" in out


def test_method_picks_a_method_and_its_fields_alone(path, pipeline, capsys):
    cli.main(["run", path, "--method", "l1", "--method.schedule.name", "gradual"])
    assert pipeline.config.method == L1(Schedule("gradual"))
    code, out, _ = stopped(capsys, "run", path, "--method=greedy", "--help")
    assert code == 0 and "--method.positions" in out and "--method.search" not in out
    lines = [line for line in out.splitlines() if path not in line]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--method", "magic"], "unknown method 'magic'; there are genetic"),
        (["--method"], "--method needs a value"),
        (["--method", "l1", "--method.search.population", "3"],
         "the method l1 has no such field; it is one of genetic. Its fields: normaliser, schedule"),
        (["--method.nonsense", "3"], "the method genetic has no such field. Its fields:"),
    ],
)  # fmt: skip
def test_a_method_or_field_that_is_not_there_is_one_sentence(
    path, pipeline, capsys, arguments, words
):
    code, _, err = stopped(capsys, "run", path, *arguments)
    assert code == 2 and words in err and err.count("\n") == 1 and pipeline.config is None


def test_an_unknown_field_gets_a_suggestion(path, pipeline, capsys):
    code, _, err = stopped(capsys, "run", path, "--method.search.populatoin", "3")
    assert code == 2 and "--method.search.population" in err and pipeline.config is None


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["shrink"], "unknown command 'shrink'"),
        (["run"], "name a config first"),
        (["run", "--seed", "3"], "name a config first"),
        (["run", "absent.py"], "no config file absent.py"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(capsys, arguments, words):
    code, out, err = stopped(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("jaxprune: error: ") and err.count("\n") == 1 and words in err


def test_a_value_out_of_range_is_refused_before_the_pipeline_starts(path, pipeline, capsys):
    code, _, err = stopped(capsys, "run", path, "--calibration.images", "0")
    assert code == 2 and "calibration.images must be at least 1" in err and pipeline.config is None


@pytest.mark.parametrize("error", [ValueError("bad\nthing"), FileNotFoundError("bad thing")])
def test_an_error_of_the_pipeline_is_one_line_and_debug_shows_where(path, pipeline, capsys, error):
    pipeline.error = error
    code, _, err = stopped(capsys, "run", path)
    assert (code, err) == (2, "jaxprune: error: bad thing\n")
    with pytest.raises(type(error)):
        cli.main(["run", path, "--debug"])


def test_an_error_of_ours_keeps_its_traceback(path, pipeline):
    pipeline.error = KeyError("ours")
    with pytest.raises(KeyError):
        cli.main(["run", path])


def test_the_user_stops_it(path, pipeline, capsys):
    pipeline.error = KeyboardInterrupt()
    assert stopped(capsys, "run", path)[0] == 130


def test_ctrl_c_within_a_callback_of_the_garbage_collector_stops_it():
    program = """
import gc, os, signal
from jaxprune import cli, interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
def dispatch(_):
    gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGINT))
    gc.collect()
    print("it went on")
cli._dispatch = dispatch
cli.command()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (130, "") and "jaxprune: stopped" in ended.stderr


def test_a_training_that_was_stopped_says_where_and_ends_with_143(path, pipeline, capsys):
    pipeline.error = Stopped("finetune", 12, 40)
    code, out, err = stopped(capsys, "run", path)
    assert (code, out) == (143, "")
    assert err.startswith("jaxprune: stopped at step 12 of 40 of finetune; the same command")


def test_a_full_disk_says_how_to_go_on(path, pipeline, capsys):
    pipeline.error = OSError(errno.ENOSPC, "No space left on device", "runs/mine/metrics.jsonl")
    code, _, err = stopped(capsys, "run", path)
    assert code == 2 and err.endswith(
        "'runs/mine/metrics.jsonl'; make room, and the same command goes on\n"
    )


@pytest.fixture
def folder(tmp_path):
    """The folder of a run, which was elsewhere when it was made."""
    save(tmp_path / "run" / "config.json", RunConfig(name="mine", seed=7, out="elsewhere"))
    return str(tmp_path / "run")


@pytest.fixture
def stages(monkeypatch):
    """The names of the stages that were called, with the run that `open_run` gave them."""
    called = []
    fake = SimpleNamespace(
        open_run=lambda config: SimpleNamespace(config=config, folder=config.folder),
        config_of=config_of,
        status=jaxprune.pipeline.status,
        pruned_groups=lambda run: {},
    )
    for name in ("train", "sensitivity", "prune", "finetune", "control", "evaluate"):

        def stage(run, name=name):
            called.append((name, run))
            return {"pruned_accuracy": 0.75}

        setattr(fake, name, stage)

    def heldout(run):
        called.append(("evaluate_heldout", run))
        return Answers("heldout", "digits", "", {"pruned": np.ones(2, bool)})

    fake.evaluate_heldout = heldout
    fake.share_training = lambda run, source: called.append((f"share_training {source}", run))
    monkeypatch.setattr(jaxprune, "pipeline", fake)
    return called


@pytest.mark.parametrize("command", ["train", "sensitivity", "prune", "finetune", "evaluate"])
def test_a_stage_runs_by_itself_where_the_folder_is_now(command, folder, stages, capsys):
    cli.main([command, folder])
    expected = ["finetune", "control"] if command == "finetune" else [command]
    assert [name for name, _ in stages] == expected
    run = stages[0][1]
    assert (run.config.name, run.config.seed, str(run.folder)) == ("mine", 7, folder)
    out = capsys.readouterr().out
    assert ("75.00%" if command == "evaluate" else f"next: jaxprune train {folder}") in out


def test_train_takes_the_training_of_another_run(folder, stages):
    cli.main(["train", folder, "--from", "runs/other"])
    assert [name for name, _ in stages] == ["share_training runs/other", "train"]


def test_evaluate_reads_the_held_out_images_where_it_is_told_to(folder, stages, capsys):
    cli.main(["evaluate", folder, "--heldout"])
    assert [name for name, _ in stages] == ["evaluate_heldout"]
    assert "paired over 2 held-out images" in capsys.readouterr().out


def test_a_field_of_a_run_may_be_overridden_into_another_folder(folder, stages, tmp_path, capsys):
    other = tmp_path / "other"
    save(other / "config.json", RunConfig())
    cli.main(["train", folder, "--seed", "8", "--out", str(other)])
    config = stages[0][1].config
    assert (config.name, config.seed, config.out) == ("mine", 8, str(other))


def test_status_of_a_run(folder, capsys):
    cli.main(["status", folder])
    out = capsys.readouterr().out
    assert "mine · genetic · seed 7" in out and out.count("waiting") == 5


@pytest.mark.parametrize("command", ["train", "prune", "status", "compare", "inspect"])
def test_every_command_has_its_help(command, capsys):
    code, out, _ = stopped(capsys, command, "--help")
    assert code == 0 and f"jaxprune {command}" in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["status"], "the following arguments are required: RUN"),
        (["status", "a", "b"], "unrecognized arguments: b"),
        (["compare", "a", "--jsn", "x"], "unrecognized arguments: --jsn"),
        (["prune"], "name a config first, or the folder of a run: jaxprune prune"),
        (["status", "absent"], "absent is not the folder of a run"),
    ],
)
def test_a_mistake_in_the_other_commands_is_one_line_too(capsys, arguments, words):
    code, out, err = stopped(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("jaxprune: error: ") and err.count("\n") == 1 and words in err


MODELS = """
import flax.linen as nn
import jax
import jax.numpy as jnp

class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2, name="b")(jnp.tanh(nn.Dense(4, name="a")(x)))

def fn(variables, x):
    return jnp.tanh(x @ variables["a"]) @ variables["b"]

class Namespace:
    instance = Mlp()

def make():
    return fn, {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}

bound = Mlp().bind(Mlp().init(jax.random.key(0), jnp.ones((1, 3)), train=False))
number = 3
def fails():
    raise RuntimeError("out of order")
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A module `mine_models` of the user's in the current directory."""
    (tmp_path / "mine_models.py").write_text(MODELS)
    (tmp_path / "mine_broken.py").write_text("import absent_library\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("mine_models", "mine_broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "attribute, group",
    [
        ("Mlp", "params/a/kernel[1]"),
        ("Namespace.instance", "params/a/kernel[1]"),
        ("bound", "params/a/kernel[1]"),
        ("make", "a[1]"),
    ],
)
def test_inspect_shows_the_graph_of_a_model_of_the_users(models, attribute, group, capsys):
    keywords = () if attribute == "make" else ("--arg", "train=False")
    json_file = models / "out" / "graph.json"
    name = f"mine_models:{attribute}"
    cli.main(["inspect", name, "--input", "1,3", *keywords, "--json", str(json_file)])
    out = capsys.readouterr().out
    assert f"{name} · float32[1,3]" in out and f"→ {group}" in out and "an output" in out
    found = json.loads(json_file.read_text())
    (row,) = found["groups"]
    # One hidden unit: three weights in, two out, and a Linen layer's bias.
    params = 5 if attribute == "make" else 6
    assert (row["name"], row["size"], row["params"], row["macs"]) == (group, 4, params, 5)
    assert (found["model"], found["input"]) == (name, "float32[1,3]")
    assert found["cost"]["macs"] == 20


def test_inspect_knows_the_shipped_models(capsys):
    arguments = ["vgg_small", "--input", "8,8,1", "--arg", "num_classes=10", "--protect", "conv1*"]
    cli.main(["inspect", *arguments])
    out = capsys.readouterr().out
    assert "vgg_small · float32[8,8,1]" in out and "protected" in out and "resnet" not in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["resnet5", "--input", "8,8,3"], "module:attribute, a shipped one by "),
        (["resnet18", "--input", "1,8,8,3"], "images (height, width, channels)"),
        (["resnet18", "--input", "8,8,3", "--input", "3"], "has one input, not 2"),
        (["absent.models:make", "--input", "3"], "there is no Python module 'absent'"),
        (["mine_broken:make", "--input", "3"], "No module named 'absent_library'"),
        (["mine_models:mak", "--input", "3"], "has no attribute 'mak'"),
        (["mine_models:number", "--input", "3"], "of type int, no model; it has to name a module"),
        (["mine_models:fn", "--input", "3"], "calling it failed: TypeError: fn() missing 2"),
        (["mine_models:fails", "--input", "3"], "calling it failed: RuntimeError: out of order"),
        (["mine_models:make", "--input", "1,5"], "mine_models:make with input float32[1,5]: Type"),
        (["mine_models:make", "--input", "1,5", "--dtype", "float64"], "input float64[1,5]: Type"),
        (["mine_models:make", "--input", "1,x"], "'1,x' is no shape"),
        (["mine_models:make", "--input", "1,3", "--dtype", "real"], "'real' is no type"),
        (["mine_models:make", "--input", "1,3", "--arg", "train"], "'train' is no keyword"),
        (["mine_models:make", "--input", "1,3", "--protect", "c"], "pattern 'c' matches nothing"),
        (["mine_models:make", "--input", "1,3", "--protect", "a"], "nothing in this function"),
    ],
)
def test_a_mistake_in_inspect_is_one_line(models, arguments, words, capsys):
    code, out, err = stopped(capsys, "inspect", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("jaxprune: error: ") and err.count("\n") == 1 and words in err


def test_the_help_names_every_method(capsys):
    cli.main(["--help"])
    out = capsys.readouterr().out
    assert ", ".join(METHODS) in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80


def test_help_and_version(capsys):
    cli.main(["--help"])
    cli.main(["--version"])
    out = capsys.readouterr().out
    assert "jaxprune run CONFIG" in out and out.splitlines()[-1].startswith("jaxprune ")


def test_the_command_line_adds_nothing_slow_to_the_import_of_the_package():
    code = "import sys, jaxprune; before = set(sys.modules); import jaxprune.cli; " + (
        "print(sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() in ("[]", "['jaxprune']")


@pytest.mark.parametrize(
    ("argv", "orig_argv", "ends"),
    [
        (["/usr/bin/jaxprune", "run"], [], True),
        (["-m", "run"], ["python", "-m", "jaxprune", "run"], True),
        (["-m", "pytest"], ["python", "-m", "pytest", "jaxprune"], False),
        (["train.py"], ["python", "train.py"], False),
    ],
)
def test_while_it_imports_the_signal_itself_ends_the_command_alone(
    monkeypatch, argv, orig_argv, ends
):
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setattr("sys.orig_argv", orig_argv)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupts.end_by_signal()
        assert (signal.getsignal(signal.SIGINT) is signal.SIG_DFL) == ends
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupts.end_by_signal()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
