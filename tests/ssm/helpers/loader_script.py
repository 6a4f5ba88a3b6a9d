"""Run by test_robust: kernels in the main process and, meanwhile, in a DataLoader's workers.

Arguments: how workers start. Prints `right` if every result is the main process's.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vlm_ssm import selective_scan


def scan(seed: int) -> Tensor:
    """Output and a gradient of a scan that one seed determines."""
    make = torch.Generator().manual_seed(seed)
    u, dt = torch.randn(2, 64, 70, generator=make), torch.rand(2, 64, 70, generator=make)
    A, B, C = (torch.randn(n, 8, 70, generator=make)[..., : 70 if n == 2 else 1] for n in (64, 2, 2))
    u.requires_grad_()
    y = selective_scan(u, dt, -A[..., 0].exp(), B, C, backend="numba")
    assert isinstance(y, Tensor)
    (grad,) = torch.autograd.grad(y.sin().sum(), u)
    return torch.stack([y.detach(), grad])


class Scans(Dataset[Tensor]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> Tensor:
        return scan(i)


def main() -> None:
    wanted = [scan(i) for i in range(12)]
    loader = DataLoader(Scans(), batch_size=None, num_workers=2, multiprocessing_context=sys.argv[1])
    outputs = []
    for item in loader:
        assert torch.equal(scan(3), wanted[3])
        outputs.append(item)
    same = [torch.equal(a, b) for a, b in zip(outputs, wanted, strict=True)]
    sys.stdout.write("right\n" if all(same) else f"wrong {same}\n")


if __name__ == "__main__":
    main()
