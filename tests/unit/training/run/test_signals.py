import os
import pickle
import signal

import pytest

from stu_pipeline.errors import StoppedError
from stu_pipeline.training.run.signals import catch_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_sets_the_flag_and_the_process_lives(number):
    with catch_signals() as flags:
        assert not flags.is_stop_asked()
        os.kill(os.getpid(), number)
        assert flags.is_stop_asked()
        assert flags.stop_signal == number


def test_sigusr1_asks_for_a_checkpoint_and_not_for_the_end():
    with catch_signals() as flags:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert flags.wants_save and not flags.is_stop_asked()


def test_handlers_are_restored():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with catch_signals():
        assert all(signal.getsignal(number) is not old for number, old in zip(numbers, before, strict=True))
    assert [signal.getsignal(number) for number in numbers] == before


def test_the_same_stop_that_comes_twice_at_once_is_one():
    with catch_signals() as flags:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert flags.stop_signal == signal.SIGTERM


def test_a_later_second_stop_ends_the_process(monkeypatch):
    child = os.fork()
    if child == 0:
        monkeypatch.setattr("stu_pipeline.training.run.signals.ONE_STOP_S", 0.0)
        with catch_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)  # not reached
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM


def test_a_forked_worker_still_dies_of_sigterm():
    with catch_signals():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)  # not reached
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_a_stop_keeps_its_signal_on_the_way_between_processes():
    error = pickle.loads(pickle.dumps(StoppedError("stopped", signal_number=2, hint="go on")))
    assert (error.exit_code, error.hint, str(error)) == (130, "go on", "stopped")
