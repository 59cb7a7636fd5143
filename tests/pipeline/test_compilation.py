from __future__ import annotations

import shutil
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxprune import pipeline
from jaxprune.config import ModelConfig, RunConfig
from jaxprune.files import read_json
from jaxprune.pipeline import compilation
from jaxprune.pipeline.lock import exclusive
from jaxprune.train.state import TrainConfig

SETTINGS = ("jax_compilation_cache_dir", *compilation._SETTINGS)


def settings():
    return [getattr(jax.config, name) for name in SETTINGS]


def compiles(folder, factor=3.0):
    """A new program in a block of its own: how many were compiled, and how many were found."""
    jax.clear_caches()
    with compilation.cached(), compilation.counted(folder, "stage"):
        jax.block_until_ready(jax.jit(lambda x: jnp.sin(factor * x))(jnp.ones(3)))
    return counts(folder)


def counts(folder, stage="stage"):
    record = read_json(folder / "compilation.json")["starts"][-1]["stages"][stage]
    return record["programs"], record["found"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jaxprune" / "compiled"


@pytest.fixture
def starts(monkeypatch):
    """Makes what follows another start of the run."""
    return lambda name: monkeypatch.setattr(compilation, "_STARTED", name)


def test_what_one_start_compiles_the_next_one_finds(tmp_path, starts, home):
    before = settings()
    starts("first")
    programs, found = compiles(tmp_path)
    assert programs > 0 and found == 0
    starts("second")
    assert compiles(tmp_path) == (programs, programs)
    assert compiles(tmp_path) == (2 * programs, 2 * programs)
    record = read_json(tmp_path / "compilation.json")["starts"]
    assert [start["began"] for start in record] == ["first", "second"]
    assert record[1]["stages"]["stage"]["seconds"] > 0
    assert settings() == before
    entries = len(list(home.iterdir()))
    jax.block_until_ready(jax.jit(lambda x: jnp.cos(5 * x))(jnp.ones(3)))
    assert len(list(home.iterdir())) == entries


def test_a_run_that_travels_brings_no_native_code(tmp_path, starts, monkeypatch):
    starts("first")
    programs, _ = compiles(tmp_path / "a")
    assert compiles(tmp_path / "b") == (programs, programs)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["compilation.json"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user"))
    starts("second")
    assert compiles(tmp_path / "a") == (programs, 0)


def test_half_an_entry_does_no_harm(tmp_path, starts, home):
    starts("first")
    programs, _ = compiles(tmp_path)
    for entry in home.iterdir():
        entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    starts("second")
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache"):
        assert compiles(tmp_path) == (programs, 0)


def test_the_users_own_cache_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    try:
        with compilation.cached():
            assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    finally:
        jax.config.update("jax_compilation_cache_dir", None)


def test_a_stage_computed_again_compiles_nothing(tmp_path, starts):
    config = RunConfig(
        out=str(tmp_path),
        model=ModelConfig("vgg_small", {f"conv{i}_{j}": 4 for i in (1, 2, 3) for j in (1, 2)}),
        train=TrainConfig(epochs=0.05, batch_size=64, crop_padding=1, flip=False),
    )
    for name in ("first", "second"):
        starts(name)
        jax.clear_caches()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pipeline.train(pipeline.open_run(config))
        programs, found = counts(tmp_path, "train")
        assert programs > 0 and found == (programs if name == "second" else 0)
        shutil.rmtree(tmp_path / "checkpoints")


@pytest.mark.parametrize("kept", [True, False])
def test_the_config_decides_whether_it_is_kept(tmp_path, kept, home):
    @exclusive
    def stage(run):
        return jax.block_until_ready(jax.jit(lambda x: x + kept)(jnp.ones(3)))

    stage(SimpleNamespace(folder=tmp_path, config=RunConfig(compilation_cache=kept)))
    assert home.exists() == kept
    assert counts(tmp_path)[0] > 0
