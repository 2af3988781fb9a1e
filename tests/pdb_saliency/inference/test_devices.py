"""Devices: their names, and the GPU of each process under torchrun."""

import pytest
import torch

from pdb_saliency.errors import SaliencyError
from pdb_saliency.inference.devices import device_of_process, resolve_device


@pytest.mark.parametrize(
    "name", ["cuda:99", "gpu", "", "meta", "cuda:99999999999999999999", "privateuseone", "mkldnn", "cpu\n"]
)
def test_bad_device_is_one_line(name):
    with pytest.raises(SaliencyError, match="cannot be used") as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value) and repr(name) in str(caught.value)


def test_auto_device():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_each_process_takes_its_gpu(monkeypatch):
    assert device_of_process("auto") == "auto"
    monkeypatch.setenv("LOCAL_RANK", "5")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert [device_of_process(name) for name in ("auto", "cuda", "cuda:0", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:0",
        "cpu",
    ]
