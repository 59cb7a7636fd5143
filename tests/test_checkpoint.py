import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import checkpoint
from jaxprune.checkpoint import Checkpoints, errors, networks, restore_tree, save_tree
from jaxprune.graph import trace
from jaxprune.graph.pruned import Pruned


class Moments(NamedTuple):
    count: Any
    mean: Any


def tree():
    return {
        "a.b": (jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), [None, np.arange(3)]),
        "mlp/~/linear": {"w": jnp.ones((2, 2)), "used": jnp.array([True, False])},
        "moments": Moments(jnp.zeros((), jnp.int32), np.float64(0.1)),
    }


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, strict=False)


def test_a_tree_comes_back_with_its_structure_dtypes_and_kinds(tmp_path):
    save_tree(tmp_path / "x", tree())
    back = restore_tree(tmp_path / "x", tree())
    assert_same(back, tree())
    assert isinstance(back["a.b"][1][1], np.ndarray)
    assert isinstance(back["a.b"][0], jax.Array)
    shapes = jax.eval_shape(lambda: {"w": jnp.ones((2, 2))})
    save_tree(tmp_path / "y", {"w": np.full((2, 2), 3, np.float32)})
    assert isinstance(restore_tree(tmp_path / "y", shapes)["w"], jax.Array)


def test_every_mismatch_is_listed_in_one_error(tmp_path):
    save_tree(tmp_path / "x", {"a": jnp.ones(3), "b": jnp.ones(3), "c": jnp.ones(3), "d": 1.0})
    like = {
        "a": jnp.ones(4),
        "b": jnp.ones(3, jnp.bfloat16),
        "d": np.float64(0),
        "e": jnp.ones((2, 2)),
    }
    with pytest.raises(ValueError, match="does not fit") as error:
        restore_tree(tmp_path / "x", like)
    lines = str(error.value).splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "a: float32[3] in saved, float32[4] in expected",
        "b: float32[3] in saved, bfloat16[3] in expected",
        "c: float32[3] in saved, nothing in expected",
        "e: nothing in saved, float32[2, 2] in expected",
    ]


def test_what_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"key is a typed PRNG key.*key_data"):
        save_tree(tmp_path / "x", {"key": jax.random.key(0)})
    with pytest.raises(ValueError, match="text is a str"):
        save_tree(tmp_path / "x", {"text": "hello"})
    with pytest.raises(ValueError, match="fn is a type"):
        save_tree(tmp_path / "x", {"fn": dict})
    with pytest.raises(ValueError, match="two leaves are both named a/b"):
        save_tree(tmp_path / "x", {"a": {"b": 1}, "a/b": 2})
    save_tree(tmp_path / "x", {"a": 1})
    with pytest.raises(FileExistsError, match="choose another place"):
        save_tree(tmp_path / "x", {"a": 1})
    with pytest.raises(FileNotFoundError, match="does not exist"):
        restore_tree(tmp_path / "y", {"a": 1})


def test_checkpoints_keep_the_newest_states_with_their_metrics(tmp_path):
    state = tree()
    with Checkpoints(tmp_path / "run", keep=2) as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(FileNotFoundError, match="has no checkpoint"):
            checkpoints.restore(state)
        for step in (3, 10, 200):
            state["mlp/~/linear"]["w"] = jnp.full((2, 2), step)
            checkpoints.save(step, state, {"accuracy": step / 1000})
            checkpoints.save(step, tree())  # A step saved already stays.
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.latest() == 200
        assert_same(checkpoints.restore(state), state)
        assert checkpoints.metrics() == {"accuracy": 0.2}
        assert checkpoints.metrics(10) == {"accuracy": 0.01}
        assert checkpoints.restore(state, 10)["mlp/~/linear"]["w"][0, 0] == 10
        with pytest.raises(FileNotFoundError, match="no checkpoint of step 3"):
            checkpoints.restore(state, 3)


def test_a_checkpoint_that_was_never_finished_is_not_there(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree())
    # What orbax leaves when it is killed while it writes step 2.
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        assert_same(checkpoints.restore(tree()), tree())


def test_a_truncated_checkpoint_is_one_error(tmp_path):
    save_tree(tmp_path / "x", {"a": jnp.arange(5000.0)})
    for file in (tmp_path / "x").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"x cannot be read.*damaged"):
        restore_tree(tmp_path / "x", {"a": jnp.arange(5000.0)})
    (tmp_path / "x" / "_METADATA").unlink()
    with pytest.raises(ValueError, match="x cannot be read"):
        restore_tree(tmp_path / "x", {"a": jnp.arange(5000.0)})


def mlp(variables, x):
    p = variables["params"]
    return jax.nn.relu(x @ p["first"]["w"] + p["first"]["b"]) @ p["second"]["w"]


@pytest.fixture
def pruned() -> Pruned:
    random = np.random.default_rng(0)
    variables = {
        "params": {
            "first": {"w": random.normal(size=(4, 6)), "b": random.normal(size=6)},
            "second": {"w": random.normal(size=(6, 2))},
        }
    }
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)
    graph = trace(mlp, variables, jnp.ones((1, 4)))
    (group,) = graph.groups
    return graph.slice(variables, {group: jnp.array([1.0, 0, 1, 1, 0, 0])})


def test_a_pruned_network_comes_back_and_runs(pruned, tmp_path):
    checkpoint.save(tmp_path / "net", pruned)
    back = checkpoint.load(tmp_path / "net")
    assert_same(back.variables, pruned.variables)
    assert back.widths == pruned.widths
    assert back.dense == pruned.dense
    assert back.indices.keys() == pruned.indices.keys()
    for name, kept in pruned.indices.items():
        np.testing.assert_array_equal(back.indices[name], kept)
    x = jnp.ones((3, 4))
    np.testing.assert_array_equal(
        back.wrap(mlp)(back.variables, x), pruned.wrap(mlp)(pruned.variables, x)
    )


def test_the_spec_can_be_read(pruned, tmp_path):
    checkpoint.save(tmp_path / "net", pruned)
    spec = json.loads((tmp_path / "net" / "spec.json").read_text())
    assert spec["format"] == "jaxprune pruned network"
    assert spec["version"] == 1
    assert spec["jaxprune"]
    assert list(spec["groups"].values()) == [3]
    assert spec["indices"]["params/first/w[1]"] == [0, 2, 3]
    assert spec["variables"]["params/first/w"] == {
        "keys": ["params", "first", "w"],
        "shape": [4, 3],
        "dtype": "float32",
        "dense_shape": [4, 6],
        "dense_dtype": "float32",
    }


def by_hand(variables, **fields) -> Pruned:
    dense = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        dense[name] = (tuple(leaf.shape), str(leaf.dtype))
    return Pruned(variables=variables, indices={}, widths={}, dense=dense, **fields)


def test_like_gives_the_structure(tmp_path):
    variables = tree()
    checkpoint.save(tmp_path / "net", by_hand(variables, allow_inexact=True))
    back = checkpoint.load(tmp_path / "net", like=variables)
    assert_same(back.variables, variables)
    assert back.allow_inexact

    with pytest.raises(ValueError, match="does not fit") as error:
        checkpoint.load(tmp_path / "net", like={"a.b": (jnp.ones((2, 4)),)})
    assert "a.b/0: bfloat16[2, 3] in spec.json, float32[2, 4] in like" in str(error.value)
    assert "moments/count: int32[] in spec.json, nothing in like" in str(error.value)


def test_without_like_there_are_dicts_of_the_same_names(tmp_path):
    checkpoint.save(tmp_path / "net", by_hand({"mlp/~/linear": {"w": [jnp.ones(2), jnp.zeros(3)]}}))
    found = checkpoint.load(tmp_path / "net").variables
    assert_same(found, {"mlp/~/linear": {"w": {"0": jnp.ones(2), "1": jnp.zeros(3)}}})


@pytest.mark.skipif(jax.config.jax_enable_x64, reason="float64 fits under x64")
def test_what_jax_cannot_hold_is_not_cast(tmp_path):
    variables = {"w": np.ones(2)}
    checkpoint.save(tmp_path / "net", by_hand(variables))
    with pytest.raises(ValueError, match=r"w is float64.*jax_enable_x64"):
        checkpoint.load(tmp_path / "net")
    assert checkpoint.load(tmp_path / "net", like=variables).variables["w"].dtype == np.float64


def tamper(folder: Path, edit) -> None:
    spec = json.loads((folder / "spec.json").read_text())
    edit(spec)
    (folder / "spec.json").write_text(json.dumps(spec))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s["variables"]["params/first/b"].update(shape=[4]), r"float32\[3\] in arrays"),
        (lambda s: s["variables"]["params/first/b"].update(dtype="bfloat16"), r"bfloat16\[3\]"),
        (lambda s: s["variables"].pop("params/first/b"), "nothing in spec.json"),
        (lambda s: s["indices"].pop("params/second/w[0]"), "keeps 6 positions, but has size 3"),
        (lambda s: s["indices"].update({"params/second/w[0]": [0, 2, 6]}), r"outside 0..5"),
        (lambda s: s["indices"].update({"params/second/w[0]": [0, 2, 2]}), "keeps positions twice"),
        (lambda s: s["indices"].update({"params/third/w[0]": [0]}), "no axis of a variable"),
        (lambda s: s["groups"].update(dict.fromkeys(s["groups"], 2)), "has 2 units, but 3 kept"),
        (lambda s: s.pop("indices"), "spec.json is damaged: KeyError"),
        (lambda s: s.update(version=99, jaxprune="9.0"), "version 99.*use jaxprune 9.0"),
        (lambda s: s.update(format="other"), "not the spec of a pruned network"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(pruned, tmp_path, edit, message):
    checkpoint.save(tmp_path / "net", pruned)
    tamper(tmp_path / "net", edit)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path / "net")


def test_all_that_does_not_fit_is_listed_at_once(pruned, tmp_path):
    checkpoint.save(tmp_path / "net", pruned)

    def edit(spec):
        spec["variables"]["params/first/w"]["dtype"] = "float16"
        spec["indices"]["params/first/b[0]"] = [0]

    tamper(tmp_path / "net", edit)
    with pytest.raises(ValueError, match="does not fit") as error:
        checkpoint.load(tmp_path / "net")
    assert "params/first/w" in str(error.value)
    assert "params/first/b[0]" in str(error.value)


def test_broken_folders_are_told_apart(pruned, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        checkpoint.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no saved network: it has no spec\.json"):
        checkpoint.load(tmp_path / "empty")
    checkpoint.save(tmp_path / "net", pruned)
    (tmp_path / "net" / "spec.json").write_text('{"format": ')
    with pytest.raises(ValueError, match=r"spec\.json is damaged"):
        checkpoint.load(tmp_path / "net")


def test_saving_replaces_a_network_and_nothing_else(pruned, tmp_path):
    checkpoint.save(tmp_path / "net", by_hand({"w": jnp.ones(2)}))
    # What a process that was killed while it saved leaves behind.
    (tmp_path / ".net.partial" / "arrays").mkdir(parents=True)
    checkpoint.save(tmp_path / "net", pruned)
    assert checkpoint.load(tmp_path / "net").widths == pruned.widths
    assert [p.name for p in tmp_path.iterdir()] == ["net"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="no saved network"):
        checkpoint.save(tmp_path / "mine", pruned)


class Killed(BaseException):
    """Ends a save at one of its steps, as SIGKILL would."""


def test_a_process_killed_at_any_moment_leaves_the_old_network_or_the_new(
    pruned, tmp_path, monkeypatch
):
    old = by_hand({"w": jnp.ones(2)})
    steps = [(networks, "save_tree"), (networks.shutil, "rmtree"), (Path, "rename")]
    # Path.replace and Path.write_text are what it might use instead of these one day.
    steps += [(Path, "write_text"), (Path, "mkdir"), (Path, "replace")]
    for moment in range(100):
        where = tmp_path / str(moment)
        checkpoint.save(where / "net", old)
        left = moment
        with monkeypatch.context() as patch:
            for owner, name in steps:
                original = getattr(owner, name)

                def step(*args, original=original, **kwargs):
                    nonlocal left
                    if left == 0:
                        raise Killed
                    left -= 1
                    return original(*args, **kwargs)

                patch.setattr(owner, name, step)
            try:
                checkpoint.save(where / "net", pruned)
            except Killed:
                pass
            else:
                break
        assert checkpoint.load(where / "net").widths in (old.widths, pruned.widths)
        checkpoint.save(where / "net", pruned)  # and the next one replaces whichever it was
        assert checkpoint.load(where / "net").widths == pruned.widths
        assert [p.name for p in where.iterdir()] == ["net"]
    assert moment > 5


@pytest.fixture
def full_disk():
    """No file may grow beyond 20 kB until the block ends: writing fails as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return full


def test_a_full_disk_is_an_error_that_names_the_path_and_loses_nothing(full_disk, tmp_path):
    large = {"w": jax.random.normal(jax.random.key(0), (20_000,))}
    small = {"w": jnp.ones(2)}
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(1, small)
        with full_disk(), pytest.raises(OSError, match=r"File too large: '.*run/2'"):
            checkpoints.save(2, large)
    checkpoint.save(tmp_path / "net", by_hand(small))
    with full_disk(), pytest.raises(OSError, match=r"File too large: '.*net.partial/arrays'"):
        checkpoint.save(tmp_path / "net", by_hand(large))
    assert_same(checkpoint.load(tmp_path / "net").variables, small)
    with Checkpoints(tmp_path / "run") as checkpoints:  # there is room again
        assert checkpoints.latest() == 1
        assert_same(checkpoints.restore(small), small)
        checkpoints.save(2, large)
        assert_same(checkpoints.restore(large), large)
    checkpoint.save(tmp_path / "net", by_hand(large))
    assert_same(checkpoint.load(tmp_path / "net").variables, large)


# What orbax was reading beside the damaged file fails unheard.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damaged_file_gives_a_wrong_state(tmp_path):
    state = {"a": jnp.arange(5000.0) + 1, "n": jnp.int32(4)}
    with Checkpoints(tmp_path / "sound") as checkpoints:
        checkpoints.save(1, state)
        checkpoints.save(2, state)
    files = [p for p in (tmp_path / "sound" / "2").rglob("*") if p.is_file()]
    refused = 0
    for i, file in enumerate(files):
        copy = shutil.copytree(tmp_path / "sound", tmp_path / str(i))
        damaged = copy / file.relative_to(tmp_path / "sound")
        damaged.write_bytes(damaged.read_bytes()[: file.stat().st_size // 2])
        try:
            with Checkpoints(copy) as checkpoints:
                assert_same(checkpoints.restore(state), state)  # what it does not read
        except ValueError as error:
            refused += 1
            where = copy if damaged.name == "metrics" else copy / "2"
            assert f"{where} cannot be read" in str(error) and "; remove " in str(error)
            shutil.rmtree(copy / "2")
        with Checkpoints(copy) as checkpoints:
            assert_same(checkpoints.restore(state), state)
    assert refused >= 3


def test_a_flipped_bit_is_not_loaded(tmp_path):
    rng = np.random.default_rng(0)
    tree = {"a": rng.normal(size=(50, 40)).astype(np.float32), "b": np.arange(7)}
    save_tree(tmp_path / "sound", tree)
    same = restore_tree(tmp_path / "sound", tree)
    assert all(np.array_equal(same[name], tree[name]) for name in tree)
    files = [p for p in (tmp_path / "sound").rglob("*") if p.is_file() and p.stat().st_size > 500]
    assert files
    for trial in range(12):
        copy = shutil.copytree(tmp_path / "sound", tmp_path / str(trial))
        file = copy / files[trial % len(files)].relative_to(tmp_path / "sound")
        content = bytearray(file.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(content)
        try:
            found = restore_tree(copy, tree)
        except (ValueError, OSError):
            continue
        assert all(np.array_equal(found[name], tree[name]) for name in tree)


def test_ctrl_c_within_a_read_is_no_damage(tmp_path):
    def interrupted():
        try:
            raise KeyboardInterrupt
        except BaseException as error:
            raise Exception("Encountered error while reading array index") from error

    with pytest.raises(KeyboardInterrupt):
        errors.attempt(tmp_path, interrupted)
