"""Tests of `LanguageModelSuite` for states that are saved and loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.interfaces import PADDING, LanguageModel
from vlm_core.model_folder.weights import to_dtype
from vlm_core.plugins.config import LLMConfig

LENGTH = 9


class StateTensorTests:
    """Tests with the fixtures `lm`, `llm_config` and `x` of the suite, and its `assert_close`."""

    assert_close: Callable[[Tensor, Tensor, str], None]

    saves_states: ClassVar[bool] = True
    """False for a model whose states can't be made from tensors, which then says so."""

    @pytest.mark.parametrize("padded", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @torch.no_grad()
    def test_a_state_loaded_from_a_file_continues_bit_by_bit(
        self, llm_config: LLMConfig, dtype: torch.dtype, padded: bool, tmp_path: Path
    ) -> None:
        """After any number of positions, several sequences at once; the file has tensors alone."""
        lm, x, segments = self._random_model_and_input(llm_config, dtype, padded)
        for cut in (2, LENGTH - 2):
            _, state = lm(x[:, :cut], segments=None if segments is None else segments[:, :cut])
            if not self.saves_states:
                with pytest.raises(UserError, match="can't"):
                    lm.state_from_tensors(state.to_tensors())
                return
            save_file({k: t.contiguous() for k, t in state.to_tensors().items()}, tmp_path / "state")
            again = lm.state_from_tensors(load_file(tmp_path / "state"))
            assert again.nbytes == state.nbytes > 0
            before, after = state.to_tensors(), again.to_tensors()
            assert before.keys() == after.keys()
            assert all(torch.equal(before[name], after[name]) for name in before)
            assert all(before[name].dtype == after[name].dtype for name in before)
            tail, wide = x[:, cut:], x[:, -1:].repeat_interleave(2, 0)
            assert torch.equal(lm(tail, state=again)[0], lm(tail, state=state)[0]), f"cut at {cut}"
            seen, expected = (lm(wide, state=each.expand(2))[0] for each in (again, state))
            assert torch.equal(seen, expected), "expanded after loading"

    def _random_model_and_input(
        self, llm_config: LLMConfig, dtype: torch.dtype, padded: bool
    ) -> tuple[LanguageModel, Tensor, Tensor | None]:
        """A new model, x (3, LENGTH, M), and segments with padding in front of two of the sequences."""
        lm = llm_config.build(weights=False).eval()
        to_dtype(lm, dtype)
        x = lm.embed(torch.randint(lm.vocab_size, (3, LENGTH)))
        segments = torch.zeros(3, LENGTH, dtype=torch.long)
        segments[1, :1] = segments[2, : LENGTH // 2] = PADDING
        return lm, x, segments if padded else None

    @torch.no_grad()
    def test_tensors_that_are_no_state_are_refused(self, lm: LanguageModel, x: Tensor) -> None:
        """As a damaged file or one of another model has them: each is named."""
        _, state = lm(x[:, :4])
        if not self.saves_states:
            return
        good = state.to_tensors()
        lm.state_from_tensors({k: t.to("meta") if t.is_floating_point() else t for k, t in good.items()})
        with pytest.raises(UserError):
            lm.state_from_tensors({})
        with pytest.raises(UserError, match="stranger"):
            lm.state_from_tensors({**good, "stranger": torch.zeros(1)})
        for name, tensor in good.items():
            others = {key: value for key, value in good.items() if key != name}
            wrong = [tensor[..., None], tensor[..., :0], tensor.to(torch.complex64)]
            for bad in ({}, *({name: other} for other in wrong)):
                with pytest.raises(UserError, match=re.escape(repr(name))):
                    lm.state_from_tensors({**others, **bad})

    @torch.no_grad()
    def test_joined_states_continue_as_each_alone(self, lm: LanguageModel, x: Tensor) -> None:
        """After different numbers of positions."""
        states = [lm(x[i : i + 1, : 2 + i])[1] for i in range(3)]
        if not lm.joins_states:
            with pytest.raises(NotImplementedError, match="can't join states"):
                lm.join_states(states)
            return
        seen, _ = lm(x[:, -2:], state=lm.join_states([lm(x[:2, :4])[1], states[2]]))
        self.assert_close(
            seen[:2], lm(x[:2, [0, 1, 2, 3, LENGTH - 2, LENGTH - 1]])[0][:, -2:], "the first state"
        )
        alone = lm(x[2:, -2:], state=states[2])[0]
        self.assert_close(seen[2:], alone, "the second state")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @torch.inference_mode()
    def test_sequences_in_slots_continue_bit_by_bit_as_joined_states(
        self, llm_config: LLMConfig, dtype: torch.dtype
    ) -> None:
        """Wherever they were put, and moved to."""
        lm, x, _ = self._random_model_and_input(llm_config, dtype, False)
        states = [lm(x[i : i + 1, : 2 + i])[1] for i in range(3)]
        slots = lm.decode_slots(3)
        if slots is None:
            return
        for slot, i in enumerate((0, 2, 1)):
            slots.put(slot, states[i])
        slots.move(2, 1)
        joined = lm.join_states(states[:2])
        for position in range(5, LENGTH):
            expected, joined = lm(x[:2, [position]], state=joined)
            assert torch.equal(slots.step(x[:2, [position]]), expected), f"position {position}"
        taken = [slots.take(0), slots.take(1)]
        slots.step(x[:3, [0]])
        seen, expected = lm.join_states(taken).to_tensors(), joined.to_tensors()
        assert all(torch.equal(seen[name], expected[name]) for name in expected), "copies"
