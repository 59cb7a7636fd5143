import io

import pytest
from rich.console import Console

from jaxprune.report.progress import duration, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("force", ["", "1"])
def test_nothing_is_written_where_there_is_no_terminal(monkeypatch, capsys, force):
    monkeypatch.setenv("FORCE_COLOR", force)
    with track("train", 3) as advance:
        for _ in range(3):
            advance(note="loss 1")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_count_and_last_note_on_one_line():
    file = Terminal()
    with track("train", 2, "epochs", Console(file=file, width=80, force_terminal=True)) as advance:
        advance(note="loss 2.0")
        advance(note="loss 1.0")
    last = file.getvalue().rpartition("\x1b[2K")[2]
    assert "2/2 epochs" in last and "loss 1.0" in last and "left" not in last


def test_an_error_in_the_block_comes_through():
    with pytest.raises(FloatingPointError), track("train", 2):
        raise FloatingPointError


@pytest.mark.parametrize(
    "seconds, text",
    [(0.2, "0:00"), (7, "0:07"), (59.6, "1:00"), (725, "12:05"), (11045, "3:04:05")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
