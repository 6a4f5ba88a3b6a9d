"""What a graph of modules depends on: every change that a graph would not see gives another fingerprint, or none."""

import gc
import weakref

import pytest
import torch
from torch import nn

from vlm_core.numerics.graph_fingerprint import Fingerprint


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))).eval()


def replace_child(model):
    model[1][0] = nn.Linear(3, 3).eval()


def replace_weight(model):
    model[1][0].weight = nn.Parameter(torch.zeros(3, 3))


def replace_data(model):
    model[0].bias.data = torch.zeros(3)


def replace_buffer(model):
    model[1][1].running_mean = torch.ones(3)


def append(model):
    model.append(nn.Linear(3, 3).eval())


def remove(model):
    del model[1][1]


CHANGES = [replace_child, replace_weight, replace_data, replace_buffer, append, remove]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_give_another_one(model, change):
    fingerprint = Fingerprint()
    before = fingerprint.of([model])
    assert fingerprint.of([model]) == before == Fingerprint().of([model])
    change(model)
    after = fingerprint.of([model])
    assert after != before
    assert after == Fingerprint().of([model])


@pytest.mark.parametrize("change", ["hook", "pre-hook", "forward", "training", "global hook"])
def test_what_no_graph_has(model, change):
    fingerprint = Fingerprint()
    before = fingerprint.of([model])
    handle = None
    if change == "hook":
        handle = model[1][0].register_forward_hook(lambda *_: None)
    elif change == "pre-hook":
        handle = model[1].register_forward_pre_hook(lambda *_: None)
    elif change == "global hook":
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    elif change == "forward":
        model[0].forward = model[0].forward
    else:
        model[1][1].train()
    assert fingerprint.of([model]) is None
    if handle is not None:
        handle.remove()
        assert fingerprint.of([model]) == before


def test_weights_that_change_in_place_and_other_modules(model):
    fingerprint = Fingerprint()
    before = fingerprint.of([model[0], model[1]])
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert fingerprint.of([model[0], model[1]]) == before
    assert fingerprint.of([model[1], model[0]]) != before
    assert fingerprint.of([model[0]]) != before


def test_modules_are_not_kept(model):
    fingerprint, gone = Fingerprint(), weakref.ref(model[1])
    fingerprint.of([model])
    model[1] = nn.Identity().eval()
    gc.collect()
    assert gone() is None
    assert fingerprint.of([model]) == Fingerprint().of([model])
