"""What pdb_ext records about the calls of its ops."""

import copy
import json
import pickle
import threading

import pytest
import torch

import pdb_ext

if not pdb_ext.build_info()["native"]:
    pytest.skip("needs the compiled library", allow_module_level=True)


def make_layer(channels=2):
    return pdb_ext.ConvLSTM(channels, channels), torch.randn(3, 1, channels, 5, 6)


def test_forward_and_backward_are_recorded_in_their_order():
    layer, x = make_layer()
    with pdb_ext.record_calls() as calls:
        assert len(calls) == 0
        output, _ = layer(x)
        assert [call["op"] for call in calls] == ["convlstm"]
        output.sum().backward()
    layer(x)  # no longer
    assert [call["op"] for call in calls] == ["convlstm", "convlstm_backward"]
    capability = pdb_ext.build_info()["cpu_capability"]
    expected = {"device": "cpu", "path": capability, "kernel": "direct", "layers": 1, "tensor_cores": False}
    assert all(expected.items() <= call.items() for call in calls) and calls[-1] == calls[1] and len(calls[:1]) == 1


def test_what_the_reference_computes_in_any_case_is_listed():
    options = pdb_ext.build_info()["reference_options"]
    assert json.loads(json.dumps(options)) == options and {"implementation", "kernel_size"} <= options.keys()
    x = torch.randn(2, 1, 2, 5, 6)
    for arguments in ({"implementation": "reference"}, {"kernel_size": (3, 5)}):
        with pdb_ext.record_calls() as calls:
            pdb_ext.ConvLSTM(2, 2, **arguments)(x)
        assert not calls


@pytest.mark.parametrize(
    "channels, kernel_size, side, kernel",
    [(3, 3, 12, "direct"), (16, 3, 12, "winograd"), (16, 7, 24, "winograd"), (16, 7, 8, "direct by rows")],
)
def test_the_kernel_on_the_cpu_is_named(channels, kernel_size, side, kernel):
    with pdb_ext.record_calls() as calls:
        pdb_ext.ConvLSTM(channels, channels, kernel_size)(torch.randn(1, 1, channels, side, side))
    assert calls[0]["kernel"] == kernel


def test_looking_at_many_calls_does_not_read_them_all_again():
    layer, x = make_layer()
    with torch.no_grad(), pdb_ext.record_calls() as calls:
        for count in range(1, 200):
            layer(x)
            assert len(calls) == count and calls[-1] is calls[count - 1]


def test_copies_hold_the_calls_so_far():
    layer, x = make_layer()
    with pdb_ext.record_calls() as calls:
        layer(x)
        copies = [copy.copy(calls), copy.deepcopy(calls), pickle.loads(pickle.dumps(calls))]
        layer(x)
    assert [len(c) for c in copies] == [1, 1, 1] and all(c[0] == calls[0] for c in copies) and len(calls) == 2


def test_blocks_nest_and_each_sees_its_own_calls():
    layer, x = make_layer()
    with pdb_ext.record_calls() as outer:
        layer(x)
        with pdb_ext.record_calls() as inner:
            layer(x)
        layer(x)
    assert (len(outer), len(inner)) == (3, 1)


def test_calls_of_other_threads_are_seen_and_an_error_ends_the_block():
    layer, x = make_layer()
    with pytest.raises(KeyError), pdb_ext.record_calls() as calls:
        thread = threading.Thread(target=layer, args=(x,))
        thread.start()
        thread.join()
        raise KeyError
    assert len(calls) == 1
    layer(x)
    assert len(calls) == 1


def test_the_last_call_is_known_without_a_block():
    layer, x = make_layer()
    layer(x)[0].sum().backward()
    assert pdb_ext.build_info()["last_call"]["op"] == "convlstm_backward"
