"""FLOPs and activations of each part in a stage: a frozen part has no weight gradients, parts before it no backward."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vlm_core.diagnose.costs.trace import Cost, Fakes, measure, training_mode
from vlm_core.errors import UserError
from vlm_core.model import PARTS, VLM
from vlm_core.numerics.layers import transformer_layers
from vlm_core.numerics.linear_cross_entropy import summed_cross_entropy


class ComponentCosts:
    """Costs of a model on the meta device. Its tensors are replaced by fake ones: it can't be used afterwards.

    State-space layers keep what scan backend `backend` keeps; with `checkpointing`, layers are computed again.
    """

    def __init__(self, model: VLM, backend: str = "torch", *, checkpointing: bool = False) -> None:
        self._fakes, self._model = Fakes(), model
        views = model.view_counts
        self._usual_views, self._most_views = (views.usual.views, views.most.views) if views else (1, 1)
        self._backend, self._checkpointing = backend, checkpointing
        self._fakes.module(model)
        self._size = model.encoder.image_size
        self._grid = model.encoder.grid(*self._size)
        self.tokens = views.usual.positions if views else model.connector.num_tokens(*self._grid)
        self.features = self._most_views * math.prod(self._grid) * model.encoder.dim
        self._known: dict[tuple[object, ...], Cost] = {}

    def of_stage(
        self,
        trainable: tuple[str, ...],
        batch: int,
        length: int,
        *,
        bf16: bool = False,
        backward: bool = True,
        most_views: bool = False,
    ) -> dict[str, Cost]:
        """Costs by part, for `batch` samples of `length` positions with one image each.

        The image is a usual one, or, with `most_views`, one with the most views.

        `backward=False` skips the backward FLOPs, which is faster; activations for the backward are still counted.
        """
        costs, below = {}, False
        for part in PARTS:
            trained = part in trainable
            grad = below or trained
            views = self._most_views if most_views else self._usual_views
            key = (part, trained, below, batch, length, views, bf16 and grad)
            if key not in self._known or (backward and grad and not self._known[key].backward):
                run = getattr(self, f"_{part}")(batch, batch * views, length, below, grad)
                cost = self._measure(part, run, trained or not grad, bf16 and grad, backward and grad)
                # a part without gradients has only a forward
                self._known[key] = cost if grad else Cost(forward=cost.forward)
            costs[part] = self._known[key]
            below = grad
        return costs

    def _measure(
        self, part: str, run: Callable[[], Tensor], trained: bool, bf16: bool, backward: bool
    ) -> Cost:
        module: nn.Module = getattr(self._model, part)
        try:
            with training_mode(module, trained):
                return measure(
                    module,
                    run,
                    bf16=bf16,
                    backward=backward,
                    backend=self._backend,
                    checkpointed=transformer_layers(module) if self._checkpointing else (),
                )
        except Exception as error:  # a third-party module may need real values
            text = str(error).strip().split("\n", 1)[0]
            raise UserError(
                f"{part}: can't estimate its costs without weights: {type(error).__name__}: {text:.200}"
            ) from error

    def _encoder(self, batch: int, views: int, length: int, below: bool, grad: bool) -> Callable[[], Tensor]:
        pixels = self._fakes.tensor(views, 3, *self._size)
        return lambda: self._model.encoder(pixels)

    def _connector(
        self, batch: int, views: int, length: int, below: bool, grad: bool
    ) -> Callable[[], Tensor]:
        features = self._fakes.tensor(views, *self._grid, self._model.encoder.dim, grad=below)
        return lambda: self._model.connector(features)

    def _llm(self, batch: int, views: int, length: int, below: bool, grad: bool) -> Callable[[], Tensor]:
        """Hidden states of all positions, and the loss of the text positions."""
        llm, text = self._model.llm, max(1, length - self.tokens)
        dtype = next(llm.parameters()).dtype
        x = self._fakes.tensor(batch, length, llm.dim, dtype=dtype, grad=True)
        ids = self._fakes.tensor(batch * text, dtype=torch.long)

        def run() -> Tensor:
            hidden, _ = llm(x)
            with torch.set_grad_enabled(grad):  # the loss computes its gradients in the forward pass
                return summed_cross_entropy(llm, hidden[:, -text:].flatten(0, 1), ids)

        return run
