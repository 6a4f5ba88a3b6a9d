"""Adapters: what they may stand on, that they learn, and that merging changes no output."""

import pytest
import torch
from safetensors.torch import load_file

from vlm_core.errors import UserError
from vlm_core.model_folder.assemble import load
from vlm_core.spec.spec import load_spec
from vlm_core.text.batch import collate
from vlm_core.text.render import Message, render
from vlm_core.text.template import TEMPLATES
from vlm_train.config.recipe import Lora
from vlm_train.engine import lora
from vlm_train.loss import SummedLoss
from vlm_train.run import start

pytest.importorskip("peft")
TARGETS = ["*.in_proj", "*.x_proj", "*.out_proj"]


@pytest.fixture
def batch(tiny_model):
    turns = (Message("user", ("red",)), Message("assistant", ("a blue triangle",)))
    return collate([render(TEMPLATES["short"], turns, tiny_model.llm.tokenizer)])


def put(model, *targets, **changes):
    return lora.inject(model, Lora(targets=list(targets), **changes), "s", seed=3)


def prove(model, batch):
    model.requires_grad_(True)
    with lora.check_lora_gradients(model, "s"):
        SummedLoss(model)(batch).backward()


def test_an_adapter_adds_what_its_definition_says(tiny_model):
    """W x + (alpha / rank) B A x."""
    plain = tiny_model.llm.backbone.layers[0].mixer.in_proj
    x = torch.randn(2, 16)
    adapters = put(tiny_model, "*.layers.0.mixer.in_proj", rank=4, alpha=12.0)
    a, b = adapters.values()
    assert not b.any()
    torch.nn.init.normal_(b)
    layer = tiny_model.llm.backbone.layers[0].mixer.in_proj
    torch.testing.assert_close(layer(x), plain(x) + 3.0 * x @ a.T @ b.T)


def test_merged_logits_equal_the_adapters(tiny_model, batch):
    adapters = put(tiny_model, *TARGETS)
    names = set(tiny_model.state_dict())
    for parameter in adapters.values():
        torch.nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        adapted = tiny_model.llm.logits(tiny_model(batch.input_ids)[0])
        lora.merge(tiny_model)
        merged = tiny_model.llm.logits(tiny_model(batch.input_ids)[0])
    torch.testing.assert_close(merged, adapted, rtol=1e-5, atol=1e-5)
    assert set(tiny_model.state_dict()) == {n.replace(".base_layer", "") for n in names if "lora_" not in n}
    assert not hasattr(tiny_model.llm, "peft_config")
    put(tiny_model, *TARGETS)


def test_every_target_that_is_called_learns(tiny_model, batch):
    put(tiny_model, *TARGETS)
    prove(tiny_model, batch)
    assert all(p.grad is None for p in tiny_model.parameters())


def test_every_linear_layer_of_mamba_learns(tiny_model, batch):
    put(tiny_model, *TARGETS, "*.dt_proj")
    prove(tiny_model, batch)


class Uncalled(torch.nn.Linear):
    """Its weight is computed with, and it is never called."""

    def __init__(self, plain):
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self.inner = torch.nn.Linear(plain.in_features, plain.out_features, bias=False)

    def forward(self, input):
        return torch.nn.functional.linear(input, self.inner.weight)


def bypass(model):
    for block in model.llm.backbone.layers:
        block.mixer.in_proj = Uncalled(block.mixer.in_proj)


def test_a_weight_that_is_used_without_a_call_is_refused_by_name(tiny_model, batch):
    bypass(tiny_model)
    put(tiny_model, "*.out_proj", "*.inner")
    with pytest.raises(UserError) as caught:
        prove(tiny_model, batch)
    text = str(caught.value)
    assert "2 of 4 targets would learn nothing, such as llm.backbone.layers.0.mixer.in_proj.inner" in text
    assert "to a kernel without calling the layer; take inner out of lora.targets" in text


def test_a_dead_path_is_refused_too(tiny_model, batch):
    """The layer is called, but nothing of it reaches the loss."""
    with torch.no_grad():
        tiny_model.llm.backbone.layers[1].mixer.out_proj.weight.zero_()
    put(tiny_model, "*.in_proj")
    with pytest.raises(
        UserError, match=r"1 of 2 targets.*layers\.1\.mixer\.in_proj: the first batch gives them no"
    ):
        prove(tiny_model, batch)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("*.conv1d", r"matches llm\.backbone\.layers\.0\.mixer\.conv1d, a Conv1d: .*passed to a kernel"),
        ("*.embedding", r"a Embedding: only linear layers take an adapter"),
        ("*.in_prj", r"'\*\.in_prj' matches no module; possible: .*did you mean '\*\.in_proj'"),
    ],
)
def test_what_can_hold_no_adapter(tiny_model, target, message):
    with pytest.raises(UserError, match=message):
        put(tiny_model, target)


def test_a_tied_weight_holds_no_adapter(tiny_model):
    """Merged, the adapter of a head would change the embedding that shares its weight."""
    llm = tiny_model.llm
    width, vocabulary = llm.dim, llm.vocab_size
    llm.lm_head = torch.nn.Linear(width, vocabulary, bias=False)
    llm.lm_head.weight = llm.backbone.embedding.weight
    with pytest.raises(
        UserError, match=r"llm\.lm_head shares its weight with llm\.backbone\.embedding, which"
    ):
        put(tiny_model, "*.in_proj", "*.lm_head")


def spec(run_spec, output, **changes):
    path = run_spec(output, held_out_qa=None)
    stage = "train.stages.1"
    more = [f"{stage}.{key}={value}" for key, value in changes.items()]
    return load_spec(
        path,
        ["keep_random=[encoder, llm]", f"{stage}.lora={{targets: {TARGETS}, rank: 4, dropout: 0.2}}", *more],
    )


def weights(folder):
    parts = ("encoder", "connector", "llm")
    return {
        f"{p}.{k}": v
        for p in parts
        for k, v in load_file(folder.path / "model" / p / "weights.safetensors").items()
    }


def test_a_run_trains_adapters_alone_resumes_exactly_and_saves_a_plain_model(run_spec, killed_at):
    whole, _ = start(*spec(run_spec, "whole"))
    checkpoint = max((whole.path / "checkpoints").iterdir())
    assert not (checkpoint / "llm.safetensors").exists()
    held = load_file(checkpoint / "extras.safetensors")
    assert len(held) == 2 * 3 * 2
    assert all(v.any() for v in held.values())

    model, _ = load(whole.path / "model")
    names = {n for n, _ in model.named_parameters()}
    assert not any("lora" in n or "base_layer" in n for n in names)
    fresh = load_file(min((whole.path / "checkpoints").iterdir()) / "extras.safetensors")
    assert held.keys() == fresh.keys()

    killed_at(1, 3)
    with pytest.raises(KeyboardInterrupt):
        start(*spec(run_spec, "part"))
    part, _ = start(*spec(run_spec, "part"))
    found, wanted = weights(part), weights(whole)
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_a_target_that_learns_nothing_ends_the_run_at_the_stage_start(run_spec, monkeypatch):
    path, inject = run_spec(held_out_qa=None), lora.inject
    monkeypatch.setattr(lora, "inject", lambda model, *rest: (bypass(model), inject(model, *rest))[1])
    with pytest.raises(UserError, match="stage instruct: adapters on 2 of 2 targets would learn nothing"):
        start(*load_spec(path, ["keep_random=[encoder, llm]", "train.stages.1.lora={targets: ['*.inner']}"]))


def test_a_wrong_pattern_of_a_later_stage_ends_the_run_before_its_first_step(run_spec):
    path = run_spec(held_out_qa=None)
    with pytest.raises(UserError, match=r"stage instruct: lora.targets: '\*.q_proj' matches no module"):
        start(*load_spec(path, ["keep_random=[encoder, llm]", "train.stages.1.lora={targets: ['*.q_proj']}"]))
    assert not (path.parent / "run" / "checkpoints").exists()
