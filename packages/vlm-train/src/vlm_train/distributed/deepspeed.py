"""DeepSpeed's ZeRO, stepped as any other strategy. Only this file imports DeepSpeed.

The engine holds fp32 and autocast computes, as under DDP. It keeps one flat vector of the trained weights a group, cut
into equal parts: each process has the moments of its part (ZeRO-2), and of every parameter only a part (ZeRO-3).
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from vlm_core.errors import UserError
from vlm_core.text.batch import Batch
from vlm_train.checkpoint.dtensor import rows_of
from vlm_train.checkpoint.sharded_safetensors import Pieces
from vlm_train.distributed.strategy import Replicated, unhooked
from vlm_train.loss import SummedLoss

SLOTS = ("exp_avg", "exp_avg_sq")
BUCKET = 50_000_000
"""Numbers that are reduced or gathered at once; a buffer of so many is always there."""
_LINEAR = F.linear


class Part(NamedTuple):
    """Where this process has `size` numbers of a parameter: from `start` of it, at `offset` of `flat`."""

    flat: Tensor
    offset: int
    start: int
    size: int

    def of(self, whole: Tensor) -> Tensor:
        """These numbers of the whole tensor."""
        return whole.view(-1).narrow(0, self.start, self.size)

    def held(self, like_flat: Tensor) -> Tensor:
        """These numbers where the process keeps them."""
        return like_flat.narrow(0, self.offset, self.size)


def imported(device: str) -> Any:
    """DeepSpeed, told which kind of device to use; `UserError` if it isn't installed."""
    os.environ["DS_ACCELERATOR"] = device
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            deepspeed = import_module("deepspeed")
    except ImportError as error:
        raise UserError(
            f"train.strategy: zero2 and zero3 need DeepSpeed, which can't be imported ({error}); "
            "pip install 'vlm-train[deepspeed]', or set strategy: fsdp2"
        ) from None
    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or a CPU compiles C++ for what gloo does
    return deepspeed


class Stepper:
    """Looks like the optimizer that it wraps; `step` updates every process's part and hands the result round."""

    def __init__(self, zero: Any) -> None:
        self.zero = zero

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.zero.optimizer.param_groups

    def held(self) -> list[Tensor]:
        """This process's part of the gradients of a whole step, averaged over the processes."""
        return [grad for group in self.zero.averaged_gradients.values() for grad in group or ()]

    def step(self) -> None:
        grads = self.held()
        self.zero.step()
        assert not self.zero.overflow, "a gradient that is not finite went past the check"
        for grad in grads:  # ZeRO-3 adds to them again, or leaves them where nothing comes
            grad.zero_()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, also those of a step that is left out."""
        for grad in self.held():
            grad.zero_()
        self.zero.averaged_gradients.clear()
        self.zero.zero_grad(set_to_none=set_to_none)


class Zero(Replicated):
    """ZeRO-2: gradients and moments are sharded, as are the fp32 weights that they change; ZeRO-3: everything is."""

    sharded = True

    def __init__(self, accelerator: Accelerator, *, bf16: bool = False, stage: int = 2) -> None:
        super().__init__(accelerator, bf16=bf16)
        self.stage, self.name = stage, f"zero{stage}"
        self.deepspeed = imported(accelerator.device.type)

    def wrap(self, module: SummedLoss) -> nn.Module:
        device = self.accelerator.device
        if odd := [n for n, p in module.named_parameters() if p.requires_grad and p.dtype != torch.float32]:
            raise UserError(
                f"train.strategy: {self.name} trains fp32 weights, and {odd[0].removeprefix('model.')} is not: "
                "leave dtype out of the spec and set precision: bf16, or set strategy: fsdp2"
            )
        if self.stage == 2:
            module.to(device)
        for buffer in module.buffers():
            buffer.data = buffer.data.to(device)
        return module

    def optimizing(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Stepper:
        # inside, for the engine switches off what is around it
        module.forward = self.accelerator.autocast()(module.forward)
        F.linear = _LINEAR  # ZeRO-3 replaces it for the whole process
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.engine, *_ = self.deepspeed.initialize(
                model=module, optimizer=optimizer, config=self._settings(), dist_init_required=False
            )
        if self.engine.zero_optimization_stage() != self.stage:
            raise UserError(
                f"train.strategy: {self.name} was asked for, but DeepSpeed would run something else"
            )
        return Stepper(self.engine.optimizer)

    def _settings(self) -> dict[str, Any]:
        """For DeepSpeed: fp32, no clipping (`clip` does it), and micro-batches that we count ourselves."""
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": self.stage,
                "reduce_bucket_size": BUCKET,
                "allgather_bucket_size": BUCKET,
                "stage3_param_persistence_threshold": 0,
                "overlap_comm": False,
            },
        }

    def accumulating(self, module: nn.Module) -> AbstractContextManager[None]:
        return self._not_yet()

    @contextmanager
    def _not_yet(self) -> Iterator[None]:
        self.engine.set_gradient_accumulation_boundary(is_boundary=False)
        try:
            yield
        finally:
            self.engine.set_gradient_accumulation_boundary(is_boundary=True)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        return self.engine(batch)

    def backward(self, module: nn.Module, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)

    def clip(self, optimizer: Stepper, limit: float) -> Tensor:
        """As torch does it, on the parts; no process changes anything of what is not finite."""
        grads = optimizer.held()
        square = get_total_norm(grads).square()
        dist.all_reduce(square)
        norm = square.sqrt()
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(scale)
        return norm

    def _copies(self, module: nn.Module) -> dict[str, Tensor]:
        return super()._copies(module) if self.stage == 2 else {}

    def part(self, parameter: Any) -> Part | None:
        """Where this process has moments of a trained parameter; None for nowhere."""
        zero = self.engine.optimizer
        if self.stage == 3:
            group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
            size = parameter.ds_tensor.ds_numel
            start = size * self.accelerator.process_index
            size = min(size, parameter.ds_numel - start)
            return Part(zero.fp32_partitioned_groups_flat[group], offset, start, size) if size > 0 else None
        held = parameter._hp_mapping
        if held is None:
            return None
        own, there = held.lp_fragment_address, held.hp_fragment_address
        flat = zero.single_partition_of_fp32_groups[held.param_group_index]
        return Part(flat, there.start, own.start, own.numel)

    def _rows(self, tensor: Tensor) -> Tensor | None:
        """What this process writes of a tensor that it has whole for a moment: its rows, or all of a vector."""
        if tensor.ndim < 2:
            return tensor.to("cpu", copy=True) if self.accelerator.is_main_process else None
        rows = rows_of(tensor.shape[0], self.accelerator.process_index, self.accelerator.num_processes)
        return tensor[rows].to("cpu", copy=True)

    def written(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its rows of every matrix, one matrix gathered at a time, and vectors if it is the first."""
        found = {}
        for name, tensor in tensors.items():
            with self._gathered([tensor]):
                if (own := self._rows(tensor.detach())) is not None:
                    found[name] = own
        return found

    def moments(self, model: nn.Module, optimizer: Stepper) -> dict[str, Tensor]:
        """As every strategy has it, in the names and shapes of the parameters."""
        state, found = optimizer.zero.optimizer.state, {}
        steps = [s["step"] for s in state.values() if "step" in s]
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad or not steps:
                continue
            part = self.part(parameter)
            for slot in SLOTS:
                whole = torch.zeros(
                    getattr(parameter, "ds_shape", parameter.shape), device=self.accelerator.device
                )
                if part:
                    part.of(whole).copy_(part.held(state[part.flat][slot]))
                dist.all_reduce(whole.view(torch.int32))  # zeros elsewhere: the sum is every bit of it
                if (rows := self._rows(whole)) is not None:
                    found[f"{name}|{slot}"] = rows
            if self.accelerator.is_main_process:
                found[f"{name}|step"] = steps[0].cpu()
        return found

    def recall(self, model: nn.Module, optimizer: Stepper, saved: Pieces) -> None:
        inner = optimizer.zero.optimizer
        state, on_device = inner.state, bool(inner.defaults.get("fused"))
        for name, parameter in model.named_parameters():
            part = self.part(parameter) if parameter.requires_grad else None
            if not part or f"{name}|step" not in saved.shapes:
                continue
            own = state[part.flat]
            own["step"] = saved.tensor(f"{name}|step").float().to(part.flat.device if on_device else "cpu")
            for slot in SLOTS:
                into = own.setdefault(slot, torch.zeros_like(part.flat, requires_grad=False))
                part.held(into).copy_(part.of(saved.tensor(f"{name}|{slot}")))

    @contextmanager
    def _gathered(self, tensors: list[Any]) -> Iterator[None]:
        """Inside, these are whole on every process; all must come here."""
        parted = [t for t in tensors if hasattr(t, "ds_id") and t.ds_status.name == "NOT_AVAILABLE"]
        with self.deepspeed.zero.GatheredParameters(parted, enabled=bool(parted)):
            yield

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        hooked = list(module.modules()) if self.stage == 3 else []
        with self._gathered(list(module.parameters())), unhooked(hooked), self.accelerator.autocast():
            yield

    def rest(self) -> None:
        self.engine.destroy()
        F.linear = _LINEAR
