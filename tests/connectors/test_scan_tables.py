"""Scan tables and their inverses are made once for each mechanism, grid and device."""

import pytest
import torch

from vlm_connectors.scans import bsm, csm
from vlm_connectors.vss import VSS, tables
from vlm_ssm.backends import forced
from vlm_ssm.registration import layouts, scan_orders
from vlm_ssm.registration.scan_orders import inverse_of, keep_inverse


@pytest.fixture
def calls(monkeypatch):
    """How often a mechanism was asked for its table, and how often an inverse was computed."""
    counts = {"tables": 0, "inverses": 0}
    argsort = torch.Tensor.argsort

    def scan(h, w):
        counts["tables"] += (h, w) != (1, 1)  # a module asks for the number of directions
        return csm(h, w)

    def counted(self, *args, **kwargs):
        counts["inverses"] += 1
        return argsort(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "argsort", counted)
    return scan, counts


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("parameters", ["shared", "ssm", "full"])
def test_a_table_is_made_once(calls, backend, parameters):
    scan, counts = calls
    modules = [VSS(8, scan, parameters=parameters, d_state=4) for _ in range(2)]
    with forced(backend):
        for module in modules:
            for _ in range(3):
                module(torch.randn(2, 3, 4, 8, requires_grad=True)).sum().backward()
        assert counts == {"tables": 1, "inverses": 1}
        modules[0](torch.randn(2, 2, 2, 8)).sum().backward()
    assert counts == {"tables": 2, "inverses": 2}


def test_hooked_mixers_use_the_same_inverse(calls):
    scan, counts = calls
    module = VSS(8, scan, d_state=4)
    module.mixers[0].register_forward_hook(lambda *_: None)
    for _ in range(2):
        module(torch.randn(1, 3, 4, 8)).sum().backward()
    assert counts == {"tables": 1, "inverses": 1}


def test_a_table_stays_on_each_device():
    """The meta device stands for a GPU: nothing is copied to it again."""
    first = tables(bsm, 3, 5, torch.device("meta"))
    assert first.is_meta
    assert tables(bsm, 3, 5, torch.device("meta")) is first
    assert tables(bsm, 3, 5) is tables(bsm, 3, 5)
    assert not tables(bsm, 3, 5).is_meta


def test_the_kept_inverse_is_the_inverse():
    order = tables(csm, 3, 4)
    assert torch.equal(order.gather(1, inverse_of(order)), torch.arange(12).expand(4, -1))
    assert inverse_of(order) is inverse_of(order)
    assert torch.equal(inverse_of(order.clone()), inverse_of(order))


def test_an_order_that_was_written_to_is_looked_at_again():
    order = keep_inverse(torch.tensor([[0, 1, 2]]))
    order.copy_(torch.tensor([[2, 0, 1]]))
    assert inverse_of(order).tolist() == [[1, 2, 0]]
    order[0, 0] = 3
    with pytest.raises(ValueError, match="scan_order goes from 0 to 3; expected 0 to 2"):
        layouts.check_scan_order(order, 3)


def test_only_permutations_are_kept():
    with pytest.raises(ValueError, match=r"scan_order \(1, 3\) must hold permutations of range\(3\)"):
        keep_inverse(torch.tensor([[0, 1, 1]]))


def test_an_inverse_ends_with_its_order():
    before = len(scan_orders._INVERSES)
    order = keep_inverse(torch.tensor([[1, 0]]))
    assert len(scan_orders._INVERSES) == before + 1
    del order
    assert len(scan_orders._INVERSES) == before
