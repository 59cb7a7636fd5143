import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import pytest

import jaxprune
from jaxprune import cli
from jaxprune.config import RunConfig

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
    cli.main(["run", path, "--search.population", "256", "--out", "runs/x", "--no-control"])
    assert pipeline.config.search.population == 256
    assert (pipeline.config.out, pipeline.config.control) == ("runs/x", False)
    assert (pipeline.config.name, pipeline.config.seed) == ("mine", 7)


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
        described = lines[row + 1]
        assert described and not described.startswith(("--", "(default")), f"{name} has no text"
    assert "(default: mine)" in out


def test_help_without_a_config_shows_the_defaults(capsys):
    code, out, _ = stopped(capsys, "run", "--help")
    assert code == 0 and "--search.population" in out


def test_an_unknown_field_gets_a_suggestion(path, pipeline, capsys):
    code, _, err = stopped(capsys, "run", path, "--search.populatoin", "3")
    assert code == 2 and "--search.population" in err and pipeline.config is None


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["prune"], "unknown command 'prune'"),
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
    code, _, err = stopped(capsys, "run", path, "--statistics.images", "0")
    assert code == 2 and "statistics.images must be at least 1" in err and pipeline.config is None


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
