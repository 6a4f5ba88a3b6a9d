"""Cases of `ops.scan` along several scan orders."""

from typing import NamedTuple

import torch
from cases import gradients

from vlm_ssm import boundaries_of, ops
from vlm_ssm.registration.inputs import ScanInputs


class Case(NamedTuple):
    """K scan orders; `keep_directions`: each has rows of its own (J = K), `own`: parameters of its own (P = K)."""

    K: int
    keep_directions: bool
    own: bool
    gated: bool
    optional: bool = True
    length: int = 37
    width: int = 18
    groups: int = 1
    segmented: bool = False
    seed: int = 0

    def build(self):
        """Tensors by name, scan orders, segments."""
        torch.manual_seed(self.seed)
        K, T, E, G, N, S = self.K, self.length, self.width * self.groups, self.groups, 2, 5
        J, P = (K if self.keep_directions else 1), (K if self.own else 1)
        shapes = {
            "u": (K, N, T, E),
            "dt": (K, N, T, E),
            "A": (P, E, S),
            "B": (K, N, T, G, S),
            "C": (K, N, T, G, S),
            "D": (P, E),
            "bias": (P, E),
            "z": (N, T, J, E),
            "h0": (K, N, E, S),
        }
        tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
        tensors["A"] = -tensors["A"].exp()
        left_out = set() if self.gated else {"z"}
        left_out |= set() if self.optional else {"D", "bias", "h0"}
        leaves = {n: None if n in left_out else t.requires_grad_() for n, t in tensors.items()}
        segments = torch.randint(-1, 3, (N, T)).sort(1).values if self.segmented else None
        return leaves, torch.stack([torch.randperm(T) for _ in range(K)]), segments


def run(backend, case):
    """Outputs and gradients by name."""
    tensors, scan_order, segments = case.build()
    reset = None if segments is None else boundaries_of(segments).reset
    inputs = ScanInputs(
        **tensors,
        reset=reset,
        scan_order=scan_order,
        softplus=True,
        keep_directions=case.keep_directions,
    )
    y, last = ops.scan(inputs, use=backend)
    return {"y": y, "last": last} | gradients([y, last], tensors)
