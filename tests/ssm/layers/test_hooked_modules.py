"""Sub-modules that are hooked, wrapped or replaced take part wherever a kernel would read their weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from vlm_connectors.msc import MSC
from vlm_connectors.scans import bsm, csm
from vlm_connectors.vss import VSS
from vlm_core.errors import UserError
from vlm_core.interfaces import PADDING
from vlm_llms.mamba.mamba import MambaLM

LAYERS = ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")
SEGMENTS = torch.tensor([[PADDING, PADDING, 0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 1, 2, 2, 2, 2]])


def language_model():
    torch.manual_seed(0)
    return MambaLM(16, 2, 37, d_state=4, load_tokenizer=lambda: None).eval()


def vss(**options):
    torch.manual_seed(0)
    return VSS(12, csm, d_state=4, **options)


class Same(nn.Module):
    """A wrapper that changes nothing, such as libraries put around a layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


CASES = {
    "language model": (language_model, lambda m: m(torch.ones(2, 9, 16).cumsum(1) / 9)[0]),
    "segments": (language_model, lambda m: m(torch.ones(2, 9, 16).cumsum(1) / 9, segments=SEGMENTS)[0]),
    "shared": (vss, lambda m: m(torch.ones(2, 3, 4, 12).cumsum(2))),
    "ssm": (lambda: vss(parameters="ssm"), lambda m: m(torch.ones(2, 3, 4, 12).cumsum(2))),
    "full": (lambda: vss(parameters="full"), lambda m: m(torch.ones(2, 3, 4, 12).cumsum(2))),
    "msc": (lambda: MSC(12, 16, bsm, d_state=4, head_dim=8), lambda m: m(torch.ones(2, 3, 4, 12).cumsum(2))),
}


def layers(module):
    """Everything that has a weight and is no mere holder of other modules."""
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.RMSNorm)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["hooked", "wrapped"])
def test_every_layer_is_called_and_changes_nothing(case, how):
    torch.manual_seed(1)
    make, run = CASES[case]
    module = make()
    expected, called = run(module), set()
    for name, layer in layers(module).items():
        if how == "hooked":
            layer.register_forward_hook(lambda *_, name=name: called.add(name))
        else:
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, Same(layer))
    torch.testing.assert_close(run(module), expected, atol=2e-5, rtol=2e-5)
    wrapped = {n for n, m in module.named_modules() if isinstance(m, Same) and m.calls}
    assert called | wrapped == set(layers(make()))


@pytest.mark.parametrize("name", LAYERS)
def test_a_hook_that_changes_a_layer_changes_the_output(name):
    model, x = language_model(), torch.randn(1, 5, 16)
    before = model(x)[0]
    layer = model.backbone.layers[1].mixer.get_submodule(name)
    layer.register_forward_hook(lambda module, inputs, y: y * 1.5)
    assert not torch.equal(model(x)[0], before)


@pytest.mark.parametrize("name", [*LAYERS, "norm"])
def test_token_by_token_equals_the_whole(name):
    """The step for one token and a state stands aside for a hook, too."""
    model, x = language_model(), torch.randn(1, 5, 16)
    block = model.backbone.layers[1]
    layer = block.norm if name == "norm" else block.mixer.get_submodule(name)
    layer.register_forward_hook(lambda module, inputs, y: y * 1.5)
    with torch.no_grad():
        whole, _ = model(x)
        _, state = model(x[:, :4])
        last, _ = model(x[:, 4:], state=state)
    torch.testing.assert_close(last[:, 0], whole[:, -1], atol=1e-5, rtol=1e-5)


def test_adapters_on_every_linear_layer_learn_and_merge():
    peft = pytest.importorskip("peft")
    for case in ("language model", "ssm", "full"):
        make, run = CASES[case]
        module = make()
        config = peft.LoraConfig(r=4, target_modules=[n for n in LAYERS if n != "conv1d"])
        peft.inject_adapter_in_model(config, module)
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
        (run(module) ** 2).mean().backward()
        grads = {n: p.grad for n, p in module.named_parameters() if "lora_" in n}
        assert all(g is not None and g.norm() > 0 for g in grads.values()), case
        with torch.no_grad():
            adapted = run(module)
            for layer in module.modules():
                if isinstance(layer, peft.tuners.lora.LoraLayer):
                    layer.merge()
            torch.testing.assert_close(run(module), adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["dt_proj.weight", "dt_proj.bias", "conv1d.weight", "A_log", "D"])
def test_a_parametrised_weight_counts(name):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model, x = language_model(), torch.randn(1, 5, 16)
    twin = copy.deepcopy(model)
    mixer = model.backbone.layers[0].mixer
    owner, _, leaf = name.rpartition(".")
    parametrize.register_parametrization(mixer.get_submodule(owner), leaf, Double())
    with torch.no_grad():
        twin.backbone.layers[0].mixer.get_parameter(name).mul_(2)
        torch.testing.assert_close(model(x)[0], twin(x)[0])
        state = twin(x)[1]
        token = torch.randn(1, 1, 16)
        torch.testing.assert_close(
            model(token, state=state)[0], twin(token, state=state)[0], atol=1e-5, rtol=1e-5
        )


def test_a_replaced_projection_of_delta_adds_its_own_bias():
    """As quantised layers do: the scan must not add it again."""
    model, x = language_model(), torch.randn(1, 5, 16)
    expected = model(x)[0]
    mixer = model.backbone.layers[0].mixer
    linear = nn.Linear(mixer.dt_rank, mixer.d_inner)
    linear.load_state_dict(mixer.dt_proj.state_dict())
    mixer.dt_proj = linear
    torch.testing.assert_close(model(x)[0], expected, atol=1e-5, rtol=1e-5)


def test_in_bf16_a_called_projection_keeps_its_bias_in_fp32():
    x = torch.randn(1, 5, 16).bfloat16()
    model = MambaLM(16, 1, 37, d_state=4, dtype=torch.bfloat16, load_tokenizer=lambda: None).eval()
    with torch.no_grad():
        model.backbone.layers[0].mixer.dt_proj.bias.fill_(4.003)
        expected, state = model(x)
        model.backbone.layers[0].mixer.dt_proj.register_forward_hook(lambda *_: None)
        found, after = model(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(after[0].ssm, state[0].ssm, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("parameters", ["shared", "full"])
def test_a_hooked_mixer_of_a_connector_is_called(parameters):
    module, called = vss(parameters=parameters), []
    x = torch.randn(2, 3, 4, 12)
    expected = module(x)
    module.mixers[0].register_forward_hook(lambda *_: called.append(1))
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)
    assert len(called) == (4 if parameters == "shared" else 1)


def test_a_mixer_that_is_never_called_refuses_a_hook():
    module = vss(parameters="ssm")
    module.mixers[0].register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match="is never called as a module: hook, wrap or replace its in_proj"):
        module(torch.randn(1, 2, 2, 12))


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["whole", "segments"])
def test_under_autocast_a_called_convolution_rounds_no_more_than_the_kernel(segments):
    """torch would convolve in bf16; the kernel does in fp32, whatever it is given."""
    model, x = language_model(), torch.randn(2, 9, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        kernel, _ = model(x, segments=segments)
        for block in model.blocks:
            block.mixer.conv1d.register_forward_hook(lambda *args: None)
        called, _ = model(x, segments=segments)
    live = torch.ones(2, 9, dtype=torch.bool) if segments is None else segments != PADDING
    torch.testing.assert_close(called[live], kernel[live], rtol=1e-5, atol=1e-5)
