"""How python/benchmarks/gpu/timing.py takes times on a GPU, with a simulated GPU and clock."""

import pytest
import torch

LAUNCH_S = 5e-6  # what launching a kernel costs the CPU


class Machine:
    """A CPU and a GPU, each with its own time; what is queued runs when the GPU comes to it."""

    def __init__(self):
        self.cpu = self.gpu = 0.0

    def perf_counter(self):
        return self.cpu

    def launch(self, seconds):
        self.cpu += LAUNCH_S
        self.gpu = max(self.gpu, self.cpu) + seconds

    def synchronize(self):
        self.cpu = max(self.cpu, self.gpu)

    def event(self, enable_timing):
        return Event(self)


class Event:
    def __init__(self, machine):
        self.machine = machine

    def record(self):
        self.at = max(self.machine.gpu, self.machine.cpu)

    def query(self):
        return self.at <= self.machine.cpu

    def synchronize(self):
        self.machine.cpu = max(self.machine.cpu, self.at)

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


@pytest.fixture
def machine(monkeypatch):
    from gpu import timing as gpu_timing

    machine, empty = Machine(), torch.empty
    monkeypatch.setattr(torch.cuda, "Event", machine.event)
    monkeypatch.setattr(torch.cuda, "synchronize", machine.synchronize)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: machine.launch(cycles / 1.9e9), raising=False)
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: Flush(machine, empty(1)))
    monkeypatch.setattr(gpu_timing.time, "perf_counter", machine.perf_counter)
    return machine


class Flush:
    def __init__(self, machine, _):
        self.zero_ = lambda: machine.launch(1e-4)


def kernels(machine, count, seconds):
    def run():
        for _ in range(count):
            machine.launch(seconds)

    return run


def test_a_launch_is_hidden_from_the_device_time_only(machine):
    """A graph of 20 us, and 200 kernels of 1 us that take five times as long to launch."""
    from gpu.timing import time_interleaved

    functions = {"graph": kernels(machine, 1, 2e-5), "eager": kernels(machine, 200, 1e-6)}
    times = time_interleaved(functions, "cuda", 0.5, kinds=("device", "wall", "flushed"))
    for name, device, wall in (("graph", 0.02, 0.02), ("eager", 0.2, 1.0)):
        assert times[name]["device_ms"] == pytest.approx(3 * [device], rel=1e-6) and times[name]["hidden"] == 1
        assert times[name]["flushed_ms"] == pytest.approx(3 * [device], rel=1e-6)
        assert times[name]["wall_ms"][1] == pytest.approx(wall, rel=0.05)
    assert times["graph"]["calls"] == 20 and times["eager"]["calls"] > 1


def test_what_the_queue_cannot_hold_is_said_not_to_be_hidden(machine):
    from gpu.timing import time_interleaved

    times = time_interleaved({"long": kernels(machine, 10_000, 1e-6)}, "cuda", 2.0)["long"]
    assert times["hidden"] == 0 and times["calls"] == 1
