import os
import signal
import threading

import pytest

from jaxprune.pipeline.stopping import Stopped, stopping


class Ended(BaseException):
    """What the handler outside of the block raises."""


@pytest.fixture
def outer():
    """A handler as a program around ours may have one."""

    def end(*_):
        raise Ended

    before = signal.signal(signal.SIGTERM, end)
    yield end
    signal.signal(signal.SIGTERM, before)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_first_signal_is_noted_and_the_second_ends_it(outer):
    with stopping() as stop:
        assert not stop.requested
        terminate()
        assert stop.requested
        with pytest.raises(Ended):
            terminate()
    assert signal.getsignal(signal.SIGTERM) is outer


def test_outside_of_the_block_nothing_is_held_back(outer):
    with pytest.raises(KeyError), stopping():
        raise KeyError
    with pytest.raises(Ended):
        terminate()


def test_in_another_thread_nothing_is_changed(outer):
    seen = []

    def work():
        with stopping() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, outer)]


def test_it_says_where_it_stopped():
    assert str(Stopped("finetune", 7, 20)).startswith("stopped at step 7 of 20 of finetune; ")
