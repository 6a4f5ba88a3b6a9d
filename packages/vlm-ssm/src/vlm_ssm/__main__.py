"""`python -m vlm_ssm` prints backends and kernels of this machine, and exits with 1 if one is damaged."""

from __future__ import annotations

import sys

import torch

from vlm_ssm.doctor import backend_rows, kernel_rows


def main() -> int:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows, problems = backend_rows(devices)
    for name, value in [*rows, *kernel_rows()]:
        sys.stdout.write(f"{name:<20} {value}\n")
    for problem in problems:
        sys.stdout.write(f"\nproblem: {problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
