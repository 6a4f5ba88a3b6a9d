"""Conformance tests of language models. Subclass in one line:

    class TestMine(LanguageModelSuite):
        config = MyConfig(...)

If the config needs files, such as a tokenizer, override `make_config(tmp_path_factory)`. Use a tiny model: it is built
several times, with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from vlm_core.interfaces import PADDING, LanguageModel
from vlm_core.model_folder.weights import empty_parameters, load_part_weights, save_part, to_dtype
from vlm_core.plugins.config import LLMConfig
from vlm_core.testing import frozen_modules, untrusted_files
from vlm_core.testing.state_tensors import StateTensorTests
from vlm_core.testing.tokenizer import TokenizerTests

LENGTH = 9


def relative_difference(seen: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    assert seen.shape == expected.shape, f"shape {tuple(seen.shape)}, expected {tuple(expected.shape)}"
    return ((seen - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def _split(x: Tensor, cuts: Sequence[int]) -> list[Tensor]:
    """Chunks of (B, T, M) between the positions `cuts`."""
    return [x[:, start:end] for start, end in zip((0, *cuts), (*cuts, x.shape[1]), strict=True)]


class LanguageModelSuite(StateTensorTests, TokenizerTests):
    """The contract of `LanguageModel` and its tokenizer as tests."""

    config: ClassVar[Any] = None
    tolerance: ClassVar[float] = 1e-4
    """Relative to the largest value, in fp32."""

    @classmethod
    def make_config(cls, tmp_path_factory: pytest.TempPathFactory) -> LLMConfig:
        """The config under test; override it where the config needs files."""
        return cls.config

    @pytest.fixture(scope="class")
    @classmethod
    def llm_config(cls, tmp_path_factory: pytest.TempPathFactory) -> LLMConfig:
        return cls.make_config(tmp_path_factory)

    @pytest.fixture(scope="class")
    @classmethod
    def lm(cls, llm_config: LLMConfig) -> LanguageModel:
        """The model in evaluation mode; tests don't change it."""
        torch.manual_seed(0)
        return llm_config.build(weights=False).eval()

    @pytest.fixture
    def x(self, lm: LanguageModel) -> Tensor:
        """Embeddings (3, LENGTH, M) of random ids."""
        ids = torch.randint(lm.vocab_size, (3, LENGTH), generator=torch.Generator().manual_seed(1))
        return lm.embed(ids).detach()

    @pytest.fixture(autouse=True)
    def _deterministic(self) -> None:
        torch.manual_seed(2)

    def assert_close(self, seen: Tensor, expected: Tensor, what: str) -> None:
        difference = relative_difference(seen, expected)
        assert difference <= self.tolerance, f"{what}: differs by {difference:.2g} of the largest value"

    # Shapes and arithmetic

    @torch.no_grad()
    def test_logits_are_those_of_the_head(self, lm: LanguageModel, x: Tensor) -> None:
        """`output_projection`, if not None, gives the logits: trainers multiply by it themselves."""
        if (head := lm.output_projection()) is not None:
            weight, bias = head
            seen = torch.nn.functional.linear(x, weight, bias)
            assert relative_difference(lm.logits(x), seen) < self.tolerance

    @torch.no_grad()
    def test_shapes(self, lm: LanguageModel) -> None:
        x = lm.embed(torch.zeros(2, 5, dtype=torch.long))
        assert x.shape == (2, 5, lm.dim)
        hidden, _ = lm(x)
        assert hidden.shape == (2, 5, lm.dim)
        assert lm.logits(hidden).shape == (2, 5, lm.vocab_size)
        assert lm.logits(hidden[:, -1]).shape == (2, lm.vocab_size)

    @torch.no_grad()
    def test_a_batch_equals_its_members(self, lm: LanguageModel, x: Tensor) -> None:
        singles = torch.cat([lm(row[None])[0] for row in x])
        self.assert_close(lm(x)[0], singles, "a batch and its members")

    def test_the_model_is_causal(self, lm: LanguageModel, x: Tensor) -> None:
        x = x.clone().requires_grad_()
        hidden, _ = lm(x)
        for t in (0, LENGTH // 2, LENGTH - 2):
            (gradient,) = torch.autograd.grad(hidden[:, t].square().sum(), x, retain_graph=True)
            assert gradient[:, : t + 1].abs().sum() > 0, f"position {t} does not depend on its past"
            assert gradient[:, t + 1 :].abs().max() == 0, f"position {t} depends on its future"

    def test_the_gradient_reaches_every_trainable_parameter(self, llm_config: LLMConfig) -> None:
        lm = llm_config.build(weights=False).train()
        ids = torch.randint(lm.vocab_size, (2, LENGTH + 1))
        logits = lm.logits(lm(lm.embed(ids[:, :-1]))[0])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        trainable = {name: p.grad for name, p in lm.named_parameters() if p.requires_grad}
        assert trainable, "nothing to train"
        bad = [name for name, g in trainable.items() if g is None or not g.isfinite().all() or not g.any()]
        assert not bad, f"no gradient, or one that is zero or not finite: {bad}"

    def test_evaluation_mode_changes_nothing(self, llm_config: LLMConfig) -> None:
        frozen_modules.check_evaluation(*self._build(llm_config))

    def test_training_mode_writes_running_statistics_at_most(self, llm_config: LLMConfig) -> None:
        frozen_modules.check_training(*self._build(llm_config))

    def test_frozen_module_ignores_training_mode(self, llm_config: LLMConfig) -> None:
        frozen_modules.check_frozen(*self._build(llm_config))

    def _build(self, config: LLMConfig) -> tuple[LanguageModel, Callable[[], Tensor]]:
        """A new model, and a forward pass from ids to logits."""
        lm = config.build(weights=False)
        ids = torch.arange(2 * LENGTH).view(2, LENGTH) % lm.vocab_size
        return lm, lambda: lm.logits(lm(lm.embed(ids))[0])

    @torch.no_grad()
    def test_bfloat16_is_finite(self, llm_config: LLMConfig) -> None:
        lm = llm_config.build(weights=False).eval()
        to_dtype(lm, torch.bfloat16)
        hidden, state = lm(lm.embed(torch.arange(LENGTH)[None] % lm.vocab_size))
        assert lm.logits(hidden).isfinite().all()
        hidden, _ = lm(lm.embed(torch.zeros(1, 1, dtype=torch.long)), state=state)
        assert lm.logits(hidden).isfinite().all()

    # State

    @pytest.mark.parametrize("cuts", [(1,), (5,), (LENGTH - 1,), (1, 3), tuple(range(1, LENGTH))], ids=str)
    @torch.no_grad()
    def test_chunks_equal_the_full_sequence(
        self, lm: LanguageModel, x: Tensor, cuts: tuple[int, ...]
    ) -> None:
        state, hidden = None, []
        for chunk in _split(x, cuts):
            out, state = lm(chunk, state=state)
            hidden.append(out)
        self.assert_close(torch.cat(hidden, 1), lm(x)[0], f"in chunks, cut at {cuts}")

    @torch.no_grad()
    def test_prefill_gives_the_last_logits_and_the_state(self, lm: LanguageModel, x: Tensor) -> None:
        """A prefill that a subclass has made faster; its state is continued by the next prefill, and by `forward`."""
        hidden = lm(x)[0]
        _, state = lm.prefill(x[:, :3])
        logits, state = lm.prefill(x[:, 3 : LENGTH - 1], state=state)
        self.assert_close(logits, lm.logits(hidden[:, -2]), "the second prefill")
        self.assert_close(lm(x[:, -1:], state=state)[0], hidden[:, -1:], "after two prefills")

    @torch.no_grad()
    def test_next_state_is_the_state_of_forward(self, lm: LanguageModel, x: Tensor) -> None:
        """Frame by frame, as a stream is read; the states before stay as they were."""
        states = [None]
        for chunk in _split(x[:, :-1], (3, 6)):
            states.append(lm.next_state(chunk, state=states[-1]))
        hidden = lm(x)[0]
        self.assert_close(lm(x[:, -1:], state=states[-1])[0], hidden[:, -1:], "after three next states")
        self.assert_close(
            lm(x[:, 6:], state=states[2])[0], hidden[:, 6:], "an earlier state, continued later"
        )

    @torch.no_grad()
    def test_a_state_is_never_changed_in_place(self, lm: LanguageModel, x: Tensor) -> None:
        _, state = lm(x[:, :4])
        first, _ = lm(x[:, 4:5], state=state)
        lm(x[:, 6:], state=state)
        assert torch.equal(lm(x[:, 4:5], state=state)[0], first), "using a state changed it"

    @torch.no_grad()
    def test_a_cloned_state_is_independent(self, lm: LanguageModel, x: Tensor) -> None:
        _, state = lm(x[:, :4])
        copied = state.clone()
        for t in range(4, LENGTH):
            _, state = lm(x[:, t : t + 1].flip(0), state=state)
        expected = lm(x)[0][:, 4:]
        self.assert_close(
            lm(x[:, 4:], state=copied)[0], expected, "a clone, after the original was continued"
        )

    @torch.no_grad()
    def test_an_expanded_state_equals_copies(self, lm: LanguageModel, x: Tensor) -> None:
        _, state = lm(x[:2, :4])
        wide, tail = state.expand(2), x[:, 4:6].repeat(2, 1, 1)[:4]
        expected = lm(torch.cat([x[:2, :4].repeat_interleave(2, 0), tail], 1))[0]
        step, wide = lm(tail[:, :1], state=wide)
        self.assert_close(step, expected[:, 4:5], "an expanded state")
        self.assert_close(lm(tail[:, 1:], state=wide)[0], expected[:, 5:], "an expanded state, later")
        self.assert_close(lm(x[:2, 4:], state=state)[0], lm(x[:2])[0][:, 4:], "the state that was expanded")

    # Padding and packing

    @torch.no_grad()
    def test_a_left_padded_batch_equals_its_members(self, lm: LanguageModel, x: Tensor) -> None:
        lengths = (LENGTH, 4, 1)
        padded, segments = torch.randn_like(x) * x.std(), torch.full(x.shape[:2], PADDING)
        for row, length in enumerate(lengths):
            padded[row, -length:], segments[row, -length:] = x[row, :length], 0
        hidden, state = lm(padded, segments=segments)
        tail = x[:, :4].flip(1)
        twice, _ = lm(tail[:, :1].repeat_interleave(2, 0), state=state.expand(2))
        steps, state = lm(tail[:, :1], state=state)
        self.assert_close(twice, steps.repeat_interleave(2, 0), "an expanded state after padding")
        more, _ = lm(tail[:, 1:], state=state)
        for row, length in enumerate(lengths):
            alone = lm(torch.cat([x[row : row + 1, :length], tail[row : row + 1]], 1))[0][0]
            self.assert_close(hidden[row, -length:], alone[:length], f"padded to {LENGTH} from {length}")
            after = torch.cat([steps, more], 1)[row]
            self.assert_close(after, alone[length:], f"continued after padding from {length}")

    @torch.no_grad()
    def test_right_padding_changes_nothing(self, lm: LanguageModel, x: Tensor) -> None:
        segments = torch.zeros(x.shape[:2], dtype=torch.long)
        segments[:, 5:] = PADDING
        hidden, _ = lm(x, segments=segments)
        self.assert_close(hidden[:, :5], lm(x[:, :5])[0], "before right padding")

    @torch.no_grad()
    def test_a_packed_row_equals_separate_rows(self, lm: LanguageModel, x: Tensor) -> None:
        segments = torch.tensor(
            [[0] * 4 + [1] * 5, [0] * 1 + [1] * 2 + [2] * 6, [0] * 3 + [1] * 3 + [PADDING] * 3]
        )
        if not lm.supports_packing:
            with pytest.raises(ValueError, match="sample"):
                lm(x, segments=segments)
            return
        hidden, _ = lm(x, segments=segments)
        for row in range(3):
            for number in segments[row].unique().tolist():
                inside = segments[row] == number
                if number != PADDING:
                    alone = lm(x[row, inside][None])[0][0]
                    self.assert_close(hidden[row, inside], alone, f"row {row}, sample {number}")

    # Generation

    @torch.no_grad()
    def test_generation_from_embeddings(self, lm: LanguageModel) -> None:
        """Greedy decoding of embeddings of different lengths in one batch: each id is also the best one when its
        sequence is computed alone and without a state."""
        lengths, new = (6, 2, 4), 5
        scale = lm.embed(torch.arange(LENGTH)[None] % lm.vocab_size).std()
        x, segments = torch.randn(3, 6, lm.dim) * scale, torch.zeros(3, 6, dtype=torch.long)
        for row, length in enumerate(lengths):
            segments[row, : 6 - length] = PADDING
        hidden, state = lm(x, segments=segments)
        next_ids = [lm.logits(hidden[:, -1]).argmax(-1)]
        for _ in range(new - 1):
            hidden, state = lm(lm.embed(next_ids[-1][:, None]), state=state)
            next_ids.append(lm.logits(hidden[:, -1]).argmax(-1))
        ids = torch.stack(next_ids, 1)
        for row, length in enumerate(lengths):
            alone = torch.cat([x[row : row + 1, 6 - length :], lm.embed(ids[row : row + 1, :-1])], 1)
            logits = lm.logits(lm(alone)[0])[0, length - 1 :]
            chosen = logits.gather(-1, ids[row, :, None]).squeeze(-1)
            self.assert_close(chosen, logits.amax(-1), f"generated after {length} positions")

    # Files

    def test_saved_files_are_sufficient(
        self, lm: LanguageModel, llm_config: LLMConfig, tmp_path: Path
    ) -> None:
        """Building from saved files uses no network and runs no code that was added to them."""
        lm.save_assets(tmp_path)
        untrusted_files.check_saved(
            tmp_path, lambda: llm_config.build(weights=False, assets=tmp_path).tokenizer.encode("a")
        )

    @torch.no_grad()
    def test_saved_and_loaded_again(self, lm: LanguageModel, llm_config: LLMConfig, tmp_path: Path) -> None:
        lm.save_assets(tmp_path)
        save_part(lm, tmp_path / "llm.safetensors")
        with empty_parameters():
            again = llm_config.build(weights=False, assets=tmp_path).eval()
        load_part_weights(again, tmp_path / "llm.safetensors")
        before, after = lm.state_dict(), again.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        ids = torch.arange(LENGTH)[None] % lm.vocab_size
        assert torch.equal(again.logits(again(again.embed(ids))[0]), lm.logits(lm(lm.embed(ids))[0]))
