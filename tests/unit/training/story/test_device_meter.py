"""How much of its device a training takes."""

from __future__ import annotations

import itertools
import sys
import threading
import time

import pytest
import torch

from stu_pipeline.training.story.device_meter import DeviceMeter, DeviceUse


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def count_threads():
    return sum(thread.name == "device-meter" for thread in threading.enumerate())


def test_the_cpu_is_not_measured_and_needs_no_thread():
    meter = DeviceMeter(torch.device("cpu"))
    assert meter.take() == DeviceUse(memory_gib=None, utilization=None)
    assert count_threads() == 0
    meter.close()


def test_how_busy_it_was_is_the_mean_since_the_last_look():
    values = itertools.chain([0.2, 0.4], itertools.repeat(None))
    meter = DeviceMeter(torch.device("cpu"), interval_s=0.001, read_busy=lambda: next(values))
    wait_for(lambda: count_threads() == 0)  # None ended it
    assert meter.take().utilization == pytest.approx(0.3)
    assert meter.take().utilization is None
    meter.close()


def test_closing_ends_the_thread_and_may_be_repeated():
    meter = DeviceMeter(torch.device("cpu"), interval_s=0.001, read_busy=lambda: 1.0)
    assert count_threads() == 1
    meter.close()
    meter.close()
    assert count_threads() == 0


@pytest.fixture
def fake_cuda(monkeypatch):
    """Stand in for the driver: counts what is asked of it, and refuses to wait for the GPU."""
    asked = {"resets": 0, "peak": 3 * 2**30}

    def reset(device):
        asked["resets"] += 1

    def refuse(*_):
        raise AssertionError("waited for the GPU")

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: asked["peak"])
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    return asked


def test_the_peak_of_each_epoch_is_its_own(fake_cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = DeviceMeter(torch.device("cuda", 0))
    assert fake_cuda["resets"] == 1
    assert meter.take() == DeviceUse(memory_gib=3.0, utilization=None)
    assert fake_cuda["resets"] == 2
    meter.close()


class FakeDriver:
    class NVMLError(Exception):
        pass


def test_the_driver_is_asked_for_the_device_of_this_process(fake_cuda, monkeypatch):
    asked = []
    monkeypatch.setitem(sys.modules, "pynvml", FakeDriver)
    monkeypatch.setattr(torch.cuda, "utilization", lambda index: asked.append(index) or 93)
    meter = DeviceMeter(torch.device("cuda", 3), interval_s=0.001)
    wait_for(lambda: len(asked) > 2)
    use = meter.take()
    meter.close()
    assert set(asked) == {3} and use.utilization == pytest.approx(0.93)


def test_a_driver_that_cannot_tell_leaves_the_number_out(fake_cuda, monkeypatch):
    def refuse(index):
        raise FakeDriver.NVMLError("not supported")

    monkeypatch.setitem(sys.modules, "pynvml", FakeDriver)
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    meter = DeviceMeter(torch.device("cuda", 0))
    assert count_threads() == 0 and meter.take().utilization is None
    meter.close()
