import struct

import pytest

from jaxprune.report import tensorboard
from jaxprune.report.tensorboard import TensorBoard


def points(folder):
    """What TensorBoard shows of a folder: `{name: {step: value}}`, each point once.

    As it does, a file that says from which step it begins makes the older ones end there. The
    records are TFRecords: the length in 8 bytes, 4 of its checksum, the event, 4 of its checksum.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                for name, curve in found.items():
                    found[name] = {s: v for s, v in curve.items() if s < event.step}
            for value in event.summary.value:
                assert event.step not in found.setdefault(value.tag, {}), "a point is there twice"
                found[value.tag][event.step] = value.simple_value
    return found


def test_a_training_that_goes_on_leaves_each_point_once(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs the extra: pip install jaxprune[tensorboard]")
    first = TensorBoard(tmp_path / "train", step=0)
    for step in range(6):
        first.write(step, loss=1.0, accuracy=0.25)
    first.flush()  # and the process is killed; its last checkpoint was that of step 4
    with TensorBoard(tmp_path / "train", step=4) as second:
        for step in range(4, 8):
            second.write(step, loss=0.5, accuracy=0.25)
    found = points(tmp_path / "train")
    first.close()
    assert found["loss"] == {**dict.fromkeys(range(4), 1.0), **dict.fromkeys(range(4, 8), 0.5)}
    assert found["accuracy"] == dict.fromkeys(range(8), 0.25)


def test_where_it_is_not_installed_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install jaxprune\[tensorboard\]"):
        TensorBoard(tmp_path, step=0)
