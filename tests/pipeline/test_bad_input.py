"""What a user meets on the command line when a run folder is damaged, foreign, or diverges."""

from __future__ import annotations

import importlib
import os
import shutil

import numpy as np
import pytest

from jaxprune import cli
from jaxprune.checkpoint import HASHES, Checkpoints
from jaxprune.pipeline.lock import holder, lock

# What orbax was reading beside a damaged file fails unheard, at some later time.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONFIG = """
from importlib.util import find_spec

from jaxprune.budget import Budget
from jaxprune.config import *
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig

widths = {f"conv{i}_{j}": 8 for i in (1, 2, 3) for j in (1, 2)}
# The learning rate leaps at the milestone, and the loss is no number soon after it.
leap = OptimizerConfig(learning_rate=0.01, schedule="step", milestones=(0.5,), gamma=1e18)
config = RunConfig(
    model=ModelConfig(name="vgg_small", widths=widths),
    train=TrainConfig(epochs=4, batch_size=256, optimizer=leap, crop_padding=1, flip=False),
    budget=Budget("params/3"),
    tensorboard=find_spec("tensorboardX") is not None,
)
"""


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """A config, the folder of its run, whose loss got too large half-way, and what that printed."""
    folder = tmp_path_factory.mktemp("diverged")
    config = folder / "config.py"
    config.write_text(CONFIG)
    return config, folder / "run", failed("train", config, "--out", folder / "run")


def failed(*arguments) -> str:
    """The one line of a command that ends with exit code 2."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        printed: list[str] = []
        patch.setattr(cli, "print", lambda *a, **_: printed.append(" ".join(a)), raising=False)
        cli.main([str(a) for a in arguments])
    assert caught.value.code == 2 and len(printed) == 1 and "\n" not in printed[0]
    return printed[0]


@pytest.fixture
def run(diverged, tmp_path):
    """A copy of that run, to be damaged."""
    _, folder, _ = diverged
    return shutil.copytree(folder, tmp_path / "run")


def newest(run):
    found = {int(p.name): p for p in (run / "checkpoints" / "train").iterdir()}
    return found[max(found)]


def test_a_loss_that_is_no_number_names_the_step_and_the_last_good_state(diverged):
    _, folder, line = diverged
    good = newest(folder)
    assert "train: " in line and " at step " in line
    assert f"the last good state is that of step {good.name} in {good.parent}" in line
    with Checkpoints(good.parent) as checkpoints:
        assert checkpoints.latest() == int(good.name) > 0


def test_tensorboard_has_the_curves_that_the_config_asks_for(diverged):
    pytest.importorskip("tensorboardX", reason="needs the extra: pip install jaxprune[tensorboard]")
    _, folder, _ = diverged
    (events,) = (folder / "tensorboard" / "train").iterdir()
    assert b"gradient_norm" in events.read_bytes()


def test_truncated_files_name_the_folder_and_the_way_out(run):
    good = newest(run)
    largest = max((p for p in good.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    line = failed("train", run)
    assert f"{good} cannot be read" in line and len(line) < 500
    before = [int(p.name) for p in good.parent.iterdir() if p != good]
    assert f"remove it to go on from step {max(before)}" in line
    shutil.rmtree(good)
    assert "the last good state is that of step" in failed("train", run)
    assert newest(run).name == good.name  # it went on from the one before


def test_a_state_of_other_shapes_and_dtypes_lists_all_of_them(run):
    good = newest(run)
    step = int(good.name)
    with Checkpoints(good.parent) as checkpoints:
        names = [n for n in checkpoints._manager.item_metadata(step)["state"].tree if n != HASHES]
    first, second, *_ = (name for name in names if name.startswith("params/"))
    shutil.rmtree(good.parent)
    with Checkpoints(good.parent) as checkpoints:
        checkpoints.save(step, {first: np.zeros(3, np.float32), second: np.zeros(3, np.int8)})
    line = failed("train", run)
    assert f"{good} does not fit" in line
    assert f"{first}: float32[3] in saved, " in line and f"{second}: int8[3] in saved, " in line
    assert all(f"{name}: " in line for name in names)


def test_another_config_is_refused_by_its_fields(diverged):
    config, folder, _ = diverged
    line = failed("train", config, "--out", folder, "--seed", 3, "--train.epochs", 9)
    assert "differs in seed, train.epochs" in line and str(folder) in line
    assert "differs in seed" in failed("prune", folder, "--seed", "3")


def test_a_stage_says_what_it_lacks_and_a_folder_that_it_is_no_run(diverged, tmp_path):
    _, folder, _ = diverged
    line = failed("prune", folder)
    assert "checkpoints/train" in line and f"`jaxprune train {folder}` first" in line
    for command in ("status", "train", "compare"):
        assert "it has no config.json" in failed(command, tmp_path)
    assert "absent" in failed("status", tmp_path / "absent")


def test_a_file_in_the_way_stops_it_before_any_work(diverged, tmp_path):
    config, _, _ = diverged
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert f"{out} cannot be made a run folder" in failed("train", config, "--out", out)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_a_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    as_root = os.geteuid() == 0  # whom permissions do not hold back
    if as_root:
        os.seteuid(65534)
    try:
        with pytest.raises(OSError, match=r"cannot be written \(Permission denied\); choose"):
            lock(tmp_path).__enter__()
    finally:
        if as_root:
            os.seteuid(0)
        tmp_path.chmod(0o755)


def test_the_lock_keeps_others_off_and_lets_its_own_process_in(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    assert holder(tmp_path) is None
    with lock(tmp_path), lock(tmp_path):
        assert holder(tmp_path) == os.getpid()
    assert holder(tmp_path) is None
    # A lock belongs to the open file, so that this one is as good as another process's.
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711")
        file.flush()
        assert holder(tmp_path) == 4711
        with pytest.raises(ValueError, match=r"another process, 4711, is at work.*--out"):
            lock(tmp_path).__enter__()
    with lock(tmp_path):
        pass


def test_where_there_are_no_locks_the_run_goes_on(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with lock(tmp_path):
        pass
    module = importlib.import_module("jaxprune.pipeline.lock")
    monkeypatch.setattr(module, "fcntl", None)
    with lock(tmp_path):
        pass
