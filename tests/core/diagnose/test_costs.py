"""The adviser's numbers against what they claim: torch's counter, autograd's own memory, sums done by hand."""

import sys

import pytest
import torch
from pairs import paired
from torch.utils.flop_counter import FlopCounterMode

from vlm_core.diagnose.costs.component_costs import ComponentCosts
from vlm_core.diagnose.costs.gpus import GPUS, find_gpu, hours, smallest_gpu
from vlm_core.diagnose.costs.scan_flops import formulas
from vlm_core.diagnose.costs.trace import Fakes, SavedTensors, measure, training_mode
from vlm_core.diagnose.costs.training_memory import UNIT, Sizes, largest_block, memory
from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.errors import UserError
from vlm_core.model_folder.assemble import build
from vlm_core.numerics import linear_cross_entropy
from vlm_core.numerics.linear_cross_entropy import summed_cross_entropy
from vlm_core.spec.spec import Spec
from vlm_ssm import MambaMixer
from vlm_ssm.backends import forced, shapes_of
from vlm_ssm.runtime.errors import BackendError

TEXT, VOCAB = 20, 264
ENCODER = {
    "type": "timm",
    "model": "vit_tiny_patch16_224",
    "image_size": 64,
    "model_args": {"depth": 3, "embed_dim": 32, "num_heads": 2},
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": VOCAB,
}
LLMS = {
    "mamba": {"type": "mamba", "d_model": 32, "n_layer": 3, "vocab_size": VOCAB},
    "llama": {"type": "transformers", "model": "nobody/nothing", "config": LLAMA},
}
CONNECTORS = {"vss-l2": {"type": "vss-l2"}, "state-query": {"type": "state-query", "queries": 16}}


MODELS = ["vss-l2 mamba", "vss-l2 llama", "state-query mamba"]
TRAINABLE = ["connector", "connector llm", "encoder connector llm"]
LOGITS = ["whole", "chunks"]


@pytest.fixture(scope="module", params=MODELS)
def spec(request):
    """16 patches, 16 tokens, three layers of everything."""
    connector, llm = request.param.split()
    return Spec.model_validate({"encoder": ENCODER, "connector": CONNECTORS[connector], "llm": LLMS[llm]})


def step(model, batch, trainable):
    """One training step of the real model, as the trainer takes it; returns the loss."""
    for part in ("encoder", "connector", "llm"):
        getattr(model, part).requires_grad_(part in trainable).train(part in trainable)
    n, text = 16, torch.randint(VOCAB, (batch, TEXT))
    ids = torch.cat([torch.zeros(batch, n, dtype=torch.long), text], dim=1)
    image_mask = torch.arange(n + TEXT).expand(batch, -1) < n
    hidden, _ = model(ids, image_mask, torch.rand(batch, 3, 64, 64))
    return summed_cross_entropy(model.llm, hidden[:, n:].flatten(0, 1), text.flatten())


@pytest.fixture
def no_hooks(monkeypatch):
    """torch's counter without the hooks by which it tells modules apart: a layer with hooks is computed by itself."""
    monkeypatch.setattr("torch.utils.module_tracker.ModuleTracker.__enter__", lambda self: self)
    monkeypatch.setattr("torch.utils.module_tracker.ModuleTracker.__exit__", lambda self, *error: None)


@pytest.mark.usefixtures("no_hooks", "logits")
@pytest.mark.parametrize(
    ("spec", "trainable", "logits"), paired(MODELS, TRAINABLE, LOGITS), indirect=["spec", "logits"]
)
def test_flops_are_those_of_torchs_counter(spec, trainable):
    """Counted over a whole real step; the parts' sum differs by nothing but what a step leaves out."""
    trainable = trainable.split()
    found = ComponentCosts(build_on_meta(spec)).of_stage(trainable, 2, 16 + TEXT)
    model = build(spec, weights=False)
    with forced("torch"), FlopCounterMode(display=False, custom_mapping=formulas()) as counter:
        loss = step(model, 2, trainable)
    assert sum(cost.forward for cost in found.values()) == counter.get_total_flops()
    with forced("torch"), FlopCounterMode(display=False, custom_mapping=formulas()) as counter:
        loss.backward()
    assert sum(cost.backward for cost in found.values()) == counter.get_total_flops()


@pytest.mark.usefixtures("no_hooks")
def test_a_layer_as_one_operation_costs_what_its_operations_cost():
    """What the backward pass computes again is not counted."""
    layer, counts = MambaMixer(16, d_state=4), {}
    for backend in ("torch", "numba"):
        x = torch.randn(2, 9, 16, requires_grad=True)
        for frozen in (False, True):
            layer.requires_grad_(not frozen)
            with forced(backend), FlopCounterMode(display=False, custom_mapping=formulas()) as forward:
                y = layer.mix(x)[0].sum()
            with forced(backend), FlopCounterMode(display=False, custom_mapping=formulas()) as backward:
                y.backward()
            counts[backend, frozen] = forward.get_total_flops(), backward.get_total_flops()
    for frozen in (False, True):
        assert counts["numba", frozen] == counts["torch", frozen]


def test_matrix_products_are_two_flops_a_weight(spec):
    """By hand: every weight of the blocks acts once a position, the head where text is; backward twice that."""
    model = build_on_meta(spec)
    matrices = [
        p
        for n, p in model.llm.named_parameters()
        if p.ndim == 2 and "A_log" not in n and "embed" not in n and "lm_head" not in n
    ]
    by_hand = 2 * (16 + TEXT) * sum(p.numel() for p in matrices) + 2 * TEXT * VOCAB * 32
    if spec.llm.type_name() == "mamba":  # the scan: 3 layers, 64 channels, 16 states
        by_hand += 3 * 7 * (16 + TEXT) * 64 * 16
    else:  # attention: 3 layers, scores and their use
        by_hand += 3 * 2 * 2 * (16 + TEXT) ** 2 * 32
    assert ComponentCosts(model).of_stage((), 1, 16 + TEXT)["llm"].forward == by_hand


def test_frozen_parts_cost_forward_only(spec):
    costs = ComponentCosts(build_on_meta(spec))
    align = costs.of_stage(("connector",), 1, 40)
    assert align["encoder"].backward == align["encoder"].activations == 0
    assert 0 < align["llm"].backward < costs.of_stage(("connector", "llm"), 1, 40)["llm"].backward
    alone = costs.of_stage(("llm",), 1, 40)
    assert alone["connector"].backward == alone["connector"].activations == 0
    nothing = costs.of_stage((), 1, 40)
    assert all(cost.backward == cost.activations == 0 for cost in nothing.values())


@pytest.fixture
def logits(request, monkeypatch):
    """The loss of all logits at once, or of seven tokens at a time."""
    if request.param == "chunks":
        monkeypatch.setattr(linear_cross_entropy, "CHUNK", 7 * VOCAB)


def kept_by(model, trainable, backend):
    """Bytes that autograd really keeps in a step."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept = SavedTensors(weights)
    with forced(backend), torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        loss = step(model, 3, trainable)
    del loss
    return kept.bytes()


@pytest.mark.usefixtures("logits")
@pytest.mark.parametrize(
    ("spec", "trainable", "backend", "logits"),
    paired(MODELS, TRAINABLE, ["torch", "numba"], LOGITS),
    indirect=["spec", "logits"],
)
def test_activations_are_what_autograd_keeps(spec, trainable, backend):
    """Within 1 %, or 7 kB: token ids, positions and the mask of images are not counted, whatever the backend."""
    trainable = trainable.split()
    found = ComponentCosts(build_on_meta(spec), backend).of_stage(trainable, 3, 16 + TEXT, backward=False)
    told = sum(cost.activations for cost in found.values())
    real = kept_by(build(spec, weights=False), trainable, backend)
    assert told == pytest.approx(real, rel=0.01, abs=7000)
    assert sum(cost.weight_copies for cost in found.values()) == 0, "fp32 needs none"


@pytest.mark.parametrize("backend", ["numba", "triton", "cuda"])
def test_flops_do_not_depend_on_the_backend(spec, backend):
    """A whole layer as one operation counts as its separate operations."""
    if backend != "numba":
        pytest.importorskip("triton")
    if backend == "cuda":
        pytest.importorskip("cuda.bindings")
    by_backend = [
        ComponentCosts(build_on_meta(spec), name).of_stage(("connector", "llm"), 2, 16 + TEXT)
        for name in ("torch", backend)
    ]
    (of_torch, of_fused) = ([(c.forward, c.backward) for c in costs.values()] for costs in by_backend)
    assert of_torch == of_fused


def test_a_layer_on_a_gpu_keeps_what_its_kernels_read_again():
    """By hand, without a GPU: the sum, its norm's scale, in_proj's output in bf16, and a state every 32 positions."""
    pytest.importorskip("triton")
    pytest.importorskip("cuda.bindings")
    batch, length, width, inner, states = 3, 64, 32, 64, 16
    llm = {"type": "mamba", "d_model": width, "n_layer": 5, "vocab_size": VOCAB}
    model = build_on_meta(Spec.model_validate({"encoder": ENCODER, "connector": {"type": "mlp"}, "llm": llm}))
    layers = [ComponentCosts(model, "cuda").of_stage(("llm",), batch, length, bf16=True, backward=False)]
    llm["n_layer"] = 4
    model = build_on_meta(Spec.model_validate({"encoder": ENCODER, "connector": {"type": "mlp"}, "llm": llm}))
    layers += [ComponentCosts(model, "cuda").of_stage(("llm",), batch, length, bf16=True, backward=False)]
    one = layers[0]["llm"].activations - layers[1]["llm"].activations
    position = 4 * width + 4 + 2 * 2 * inner + 4 * inner * states // 32
    assert one == batch * length * position


def test_a_backend_that_can_not_be_imported_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "vlm_ssm.triton.ops", None)
    with pytest.raises(BackendError, match="scan backend 'triton' can't be imported"), shapes_of("triton"):
        pass
    with (
        pytest.raises(BackendError, match=r"unknown scan backend 'tirton'.*did you mean 'triton'"),
        shapes_of("tirton"),
    ):
        pass


def test_autocast_keeps_a_copy_of_every_matrix():
    module = torch.nn.Sequential(torch.nn.Linear(8, 16, bias=False), torch.nn.GELU(), torch.nn.Linear(16, 8))
    fakes = Fakes()
    meta = module.to("meta")
    fakes.module(meta)
    x = fakes.tensor(5, 8, grad=True)
    with training_mode(meta, True):
        cost = measure(meta, lambda: meta(x).sum(), bf16=True)
    assert cost.weight_copies == 2 * (8 * 16 + 16 * 8)
    # in bf16: the input, GELU's input and output
    assert cost.activations == 2 * 5 * (8 + 16 + 16)
    with training_mode(meta, False):
        frozen = measure(meta, lambda: meta(x).sum(), bf16=True)
    assert frozen.activations == 2 * 5 * 16, "without weight gradients only GELU needs its input"


def test_memory_by_hand():
    sizes = Sizes(1000, 3000, trained_bytes=4000, frozen_bytes=12000, lowered_bytes=6100, block=100)

    def parts(name, gpus, bf16):
        found = memory(name, sizes, gpus, bf16=bf16, activations=7, copies=500)
        assert found.total == found.weights + found.gradients + found.optimizer + 7
        return found.weights, found.gradients, found.optimizer

    assert parts("DDP", 1, False) == (16000, 4000, 8000)
    assert parts("DDP", 8, True) == (10100 + 500, 8000, 8000)
    assert parts("FSDP2", 8, True) == (10100 / 8 + 2 * 4000 * 2, 500, 1000), "so small a model is one unit"
    assert parts("FSDP2", 8, False) == (2000 + 2 * 4000 * 4, 500, 1000)
    assert parts("FSDP2-gathered", 8, True) == (10100 / 8 + 4000 * 2, 500, 1000)
    assert parts("FSDP2-gathered", 8, False) == (2000 + 4000 * 4, 500, 1000)
    for block, unit in ((UNIT - 1, 2 * UNIT - 1), (UNIT, UNIT)):
        large = Sizes(0, 10 * UNIT, 0, 40 * UNIT, 20 * UNIT, block)
        found = memory("FSDP2", large, 8, bf16=True, activations=0, copies=0)
        assert found.weights == 20 * UNIT / 8 + 2 * unit * 2


def test_a_step_of_one_micro_batch_peaks_with_gradients_or_with_activations():
    sizes = Sizes(1000, 0, trained_bytes=4000, frozen_bytes=0, lowered_bytes=0, block=100)

    def total(gpus, activations):
        given = {"bf16": False, "copies": 0, "activations": activations, "accumulates": False}
        return memory("DDP", sizes, gpus, **given).total

    assert total(1, 100) == 4000 + 8000 + 4000
    assert total(1, 5000) == 4000 + 8000 + 5000
    assert total(2, 5000) == 4000 + 8000 + 5000 + 4000, "buckets stay"


def test_frozen_parts_have_no_gradients_and_no_optimizer(spec):
    model = build_on_meta(spec)
    connector = sum(p.numel() for p in model.connector.parameters())
    sizes = Sizes.of(model, ["connector"])
    assert sizes.trained == connector
    assert sizes.frozen == sum(p.numel() for p in model.parameters()) - connector
    found = memory("DDP", sizes, 1, bf16=False, activations=0, copies=0)
    assert (found.gradients, found.optimizer) == (4 * connector, 8 * connector)
    assert sizes.block == max(
        largest_block(model.encoder), largest_block(model.connector), largest_block(model.llm)
    )


def test_a_module_that_needs_numbers_is_refused_by_name(spec):
    model = build_on_meta(spec)
    model.connector.forward = lambda features: features[features > 0]
    with pytest.raises(UserError, match="connector: can't estimate its costs without weights"):
        ComponentCosts(model).of_stage(("connector",), 1, 40)


def test_gpus():
    a100 = find_gpu("a100-80g")
    assert hours(3600 * 8 * 312e12 * 0.3, a100, 8, 0.3) == pytest.approx(1)
    assert (smallest_gpu(10e9).memory, smallest_gpu(70e9).memory, smallest_gpu(1e12)) == (24, 80, None)
    assert not a100.holds(79e9), "some memory is not for tensors"
    with pytest.raises(UserError, match=r"unknown GPU 'H10'.*did you mean 'H100'"):
        find_gpu("H10")
    assert all(24 <= gpu.memory <= 192 and 5e13 < gpu.peak < 3e15 for gpu in GPUS.values())
