"""The CUDA sources where there is no GPU: they compile, launches name every argument, machine code is kept safely."""

import hashlib
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
pytest.importorskip("cuda.bindings.nvrtc")

from vlm_ssm import MambaMixer, cast_parameters
from vlm_ssm.cuda import (
    compiler,
    conv,
    launch,
    parameters,
    reduce,
    scan,
    scan_backward,
    scan_forward,
)
from vlm_ssm.cuda.decoding import matvec
from vlm_ssm.cuda.decoding import step as decode
from vlm_ssm.cuda.norms import layer_norm, rms_norm
from vlm_ssm.registration.inputs import ConvInputs, ScanGradients, ScanInputs
from vlm_ssm.triton import conv as triton_conv
from vlm_ssm.triton import decode as triton_decode
from vlm_ssm.triton import scan as triton_scan

try:
    compiler.version()
except (compiler.CompilationError, OSError, RuntimeError):
    pytest.skip("no NVRTC on this system", allow_module_level=True)

BF16 = torch.bfloat16


@pytest.fixture
def launches(monkeypatch):
    """Launches as (file, constants), each checked to name every field of its arguments, instead of running."""
    made = []

    class Kernel:
        def __init__(self, file, entry, **constants):
            self.file, self.entry = file, entry
            self.constants = tuple(sorted((n, int(v)) for n, v in constants.items()))

        def prepare(self, grid, threads, shared, device, tensors, **integers):
            assert sorted([*tensors, *integers]) == sorted(launch.argument_names(self.file)), self.entry
            assert all(n > 0 for n in grid)
            assert all(isinstance(n, int) for n in integers.values())
            made.append((self.file, self.constants))
            return partial(self.launched, len(tensors))

        def launched(self, count, *tensors):
            assert len(tensors) == count
            assert all(t is None or isinstance(t, torch.Tensor) for t in tensors)

        def __call__(self, grid, threads, shared, device, **values):
            tensors = {n: v for n, v in values.items() if v is None or isinstance(v, torch.Tensor)}
            integers = {n: v for n, v in values.items() if n not in tensors}
            self.prepare(grid, threads, shared, device, (*tensors,), **integers)(*tensors.values())

    for module in (
        conv,
        decode,
        layer_norm,
        matvec,
        parameters,
        reduce,
        rms_norm,
        scan_backward,
        scan_forward,
    ):
        monkeypatch.setattr(module, "kernel", Kernel)
    for module in (decode, matvec):
        dependent = lambda run, grid, threads, device, **values: run(grid, threads, 0, device, **values)  # noqa: E731
        monkeypatch.setattr(module, "launch_dependent", dependent)
    for module in (decode, parameters, rms_norm):
        monkeypatch.setattr(module, "is_usable", lambda device: True)
    forget_launches()
    yield made
    forget_launches()


def forget_launches():
    kept = (
        conv._launch,
        parameters._launch,
        reduce._launch,
        scan_backward._launches,
        scan_backward._gate_launch,
        scan_forward._launches,
        scan_forward._sum_launch,
        rms_norm._launch,
        layer_norm._launch,
    )
    for function in kept:
        function.cache_clear()


def scan_case(
    K=1, T=70, E=64, dtype=BF16, *, own=False, keep=False, gated=True, ordered=True, reset=False, states=16
):
    N, J, P = 2, K if keep else 1, K if own else 1
    rows, matrices = torch.zeros(K, N, T, E, dtype=dtype), torch.zeros(K, N, T, 1, states, dtype=dtype)
    order = torch.arange(T).expand(K, -1).contiguous() if ordered else None
    return ScanInputs(
        rows,
        rows.clone(),
        torch.zeros(P, E, states),
        matrices,
        matrices.clone(),
        torch.zeros(P, E),
        None,
        torch.zeros(N, T, J, E, dtype=dtype) if gated else None,
        None,
        torch.zeros(N, T, dtype=torch.uint8) if reset else None,
        order,
        softplus=True,
        keep_directions=keep,
    )


def run_scan(inputs, y=None):
    """A forward and a backward, whose results have the shapes of what they belong to."""
    out, last, acc, starts = scan._run(inputs, True)
    grads = scan._backward(inputs, ScanGradients(out, last, acc, starts, y=y))
    for grad, t in zip(grads, inputs[:9], strict=True):
        assert t is None or grad.shape == t.shape


def run_conv(dtype=BF16, *, state=True, boundaries=False, directions=0):
    x = torch.zeros(2, 70, 1, 64, dtype=dtype)
    marks = torch.zeros(2, 70, dtype=torch.uint8)
    segments = (marks, marks, torch.zeros(2, dtype=torch.int64)) if boundaries else (None, None, None)
    order = torch.arange(70).expand(directions, -1).contiguous() if directions else None
    past = torch.zeros(2, 3, 64, dtype=dtype) if state else None
    inputs = ConvInputs(x, torch.zeros(1, 4, 64), torch.zeros(1, 64), past, *segments, order)
    grads = conv._backward(conv._run(inputs), inputs)
    assert grads[0].shape == x.shape


@torch.no_grad()
def run_step(batch=1, *, width=64, rank=8, layers=2, alone=False, **options):
    """A token of each sequence through a stack of layers, or through one without norms; every kernel is CUDA's."""
    mixers = [MambaMixer(width, 16, dt_rank=rank, **options).eval() for _ in range(1 if alone else layers)]
    for mixer in mixers:
        cast_parameters(mixer, BF16)
    E, W = mixers[0].d_inner, mixers[0].d_conv
    convs, ssms = (
        [torch.zeros(batch, W - 1, E, dtype=BF16)] * len(mixers),
        [torch.zeros(batch, E, 16)] * len(mixers),
    )
    norms = [None] if alone else [torch.ones(width, dtype=BF16)] * len(mixers)
    x = torch.zeros(batch, 1, width, dtype=BF16)
    assert decode.why_not_covered(x, mixers, norms) is None
    y, conv, ssm = decode.fused_decode_step(x, mixers, convs, ssms, norms, None if alone else norms[0], 1e-5)
    assert (y.shape, conv.shape, ssm.shape) == (
        x.shape,
        (len(mixers), batch, W - 1, E),
        (len(mixers), batch, E, 16),
    )


def run_norm(width=64, out=BF16, y=BF16, *, added=True):
    residual, weight = torch.zeros(5, width), torch.zeros(width)
    given = torch.zeros(5, width, dtype=out) if added else None
    kernels = rms_norm.norm_kernels(residual)
    assert kernels is rms_norm.KERNELS
    _, result, scale = kernels.forward(residual, given, weight, 1e-5, y)
    grad, grad_weight = kernels.backward(result, None, residual, weight, scale, added=given)
    assert grad.shape == residual.shape
    assert grad_weight.shape == weight.shape


def run_layer_norm(x=BF16, skip=BF16, y=BF16, width=64):
    rows, weight = torch.zeros(5, width, dtype=x), torch.zeros(width)
    result, *kept = layer_norm._forward(rows, rows.to(skip), weight, weight, 1e-5, y)
    grads = layer_norm._backward(result, rows, rows.to(skip), weight, *kept)
    assert grads[2].shape == (2, width)


def run_parameters():
    A, by_tap = parameters.prepare(torch.zeros(64, 16), torch.zeros(64, 1, 4))
    grad_A_log, grad_weight = parameters.gradients(A, A, by_tap)
    assert grad_A_log.shape == (64, 16)
    assert grad_weight.shape == (64, 1, 4)


CASES = {
    "parameters": run_parameters,
    "token": run_step,
    "tokens": lambda: run_step(7, width=72, rank=40, d_conv=3),
    "token of a layer": lambda: run_step(2, alone=True),
    "many tokens": lambda: run_step(16, width=2048, rank=128, layers=1),
    "tokens of a layer": lambda: run_step(9, alone=True),
    "token of 2.8B": lambda: run_step(8, width=2560, rank=160, layers=1),
    "plain": lambda: run_scan(scan_case(ordered=False)),
    "long": lambda: run_scan(scan_case(T=4000, E=72, gated=False, ordered=False, reset=True)),
    "summed": lambda: run_scan(scan_case(K=2)),
    "chained": lambda: run_scan(scan_case(K=2, T=40, E=20480)),
    "apart": lambda: run_scan(scan_case(K=2, own=True, keep=True, dtype=torch.float16, reset=True)),
    "with y": lambda: run_scan(scan_case(ordered=False), torch.zeros(2, 70, 1, 64, dtype=BF16)),
    "many": lambda: run_scan(scan_case(E=10240)),
    "some": lambda: run_scan(scan_case(E=5120)),
    "few states": lambda: run_scan(scan_case(E=72, states=8, ordered=False)),
    "many states": lambda: run_scan(scan_case(states=64)),
    "odd states": lambda: run_scan(scan_case(T=700, states=24, reset=True)),
    "fp32": lambda: run_scan(scan_case(E=72, dtype=torch.float32, ordered=False)),
    "fp32, many states": lambda: run_scan(scan_case(E=72, dtype=torch.float32, states=64, reset=True)),
    "norm": run_norm,
    "norm of fp32": lambda: run_norm(2560, torch.float32, torch.float32),
    "norm without a sum": lambda: run_norm(8192, y=torch.float16, added=False),
    "layer norm": run_layer_norm,
    "layer norm of two types": lambda: run_layer_norm(BF16, torch.float32, BF16, 5120),
    "conv": run_conv,
    "conv of segments": lambda: run_conv(torch.float16, boundaries=True),
    "conv of directions": lambda: run_conv(torch.float32, state=False, directions=4),
}


@pytest.mark.parametrize("name", CASES)
def test_every_launch_names_its_arguments(name, launches):
    CASES[name]()
    assert launches


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("name", CASES)
def test_the_sources_compile(name, arch, launches):
    """Without a warning, and without registers spilled by the thousand."""
    CASES[name]()
    for file, constants in launches:
        image, log = compiler.build(file, constants, arch)
        assert image.startswith(b"\x7fELF")
        assert not log, log


def test_a_source_compiles():
    image, log = compiler.build("reduce.cu", (("ROW", 1),), "sm_90")
    assert image.startswith(b"\x7fELF")
    assert not log


def test_compiling_changes_no_bytes_that_python_shares():
    """NVRTC writes its log into a bytes object; those of one byte are the same everywhere in a process."""
    compiler.build("reduce.cu", (("ROW", 1),), "sm_90")
    assert [bytes([n])[0] for n in range(256)] == [*range(256)]


def test_a_gpu_that_nvrtc_does_not_know_gets_portable_code():
    assert compiler.target(90) == "sm_90"
    assert compiler.target(99999).startswith("compute_")
    with pytest.raises(compiler.CompilationError, match="below"):
        compiler.target(75)


def test_more_than_a_grid_has_goes_to_triton():
    """A grid has 65535 blocks in its second and third dimension."""
    order = torch.empty(2, 4, dtype=torch.int64)
    few, many, long = (
        torch.empty(shape, device="meta") for shape in ((9, 4, 1, 8), (40000, 4, 1, 8), (1, 600000, 1, 8))
    )
    assert conv.why_not_covered(few, 4, order) is None
    assert conv.why_not_covered(many, 4, None) is None
    assert "80000 sequences" in (conv.why_not_covered(many, 4, order) or "")
    assert "600000 positions" in (conv.why_not_covered(long, 4, None) or "")


@torch.no_grad()
def test_tokens_that_are_not_covered_go_to_triton(launches, monkeypatch):
    """By type, batch, state size and width; the reason says which."""
    went = []
    monkeypatch.setattr(triton_decode, "fused_decode_step", lambda *_: went.append(1) or (1, 2, 3))
    cases = {
        "rows of torch.float32": {"dtype": torch.float32},
        "a batch of 17": {"batch": 17},
        "a state size of 8": {"d_state": 8},
        "no multiple of 8": {"width": 20},
        "weights that are not bf16": {"weights": torch.float16},
    }
    for reason, case in cases.items():
        case = {"batch": 1, "width": 16, "d_state": 16, "dtype": BF16} | case
        mixer = MambaMixer(case["width"], case["d_state"], dt_rank=8).eval()
        cast_parameters(mixer, case.get("weights", BF16))
        x = torch.zeros(case["batch"], 1, case["width"], dtype=case["dtype"])
        assert reason in (decode.why_not_covered(x, [mixer], [None]) or "")
        decode.fused_decode_step(x, [mixer], [x], [x], [None], None, 0.0)
    assert len(went) == len(cases)
    assert not launches


def test_an_error_in_a_source_shows_the_log(tmp_path, monkeypatch):
    (tmp_path / "bad.cu").write_text("nonsense")
    monkeypatch.setattr(compiler, "SOURCES", tmp_path)
    with pytest.raises(compiler.CompilationError, match=r"bad\.cu\(1\)"):
        compiler.build("bad.cu", (), "sm_90")


@pytest.mark.parametrize(
    "error",
    [compiler.CompilationError("compute capability 7.5 is below 8.0"), OSError("no such library")],
    ids=str,
)
def test_a_gpu_that_no_kernel_runs_on_leaves_all_to_triton(error, monkeypatch, capsys):
    """As with an old GPU or driver: one line, then Triton's kernels."""

    def fail(*_):
        raise error

    monkeypatch.setattr(launch, "load", fail)
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    launch.why_unusable.cache_clear()
    monkeypatch.setattr(triton_scan, "scan", lambda inputs: "triton")
    monkeypatch.setattr(triton_conv, "conv", lambda *_: "triton")
    inputs = scan_case()._replace(u=OnGPU(scan_case().u))
    try:
        for _ in range(2):
            assert scan.scan(inputs) == "triton"
            assert conv.conv(inputs.u, torch.zeros(1, 64, 4), None, None, None, None) == "triton"
    finally:
        launch.why_unusable.cache_clear()
    assert (
        capsys.readouterr().err
        == f"vlm-ssm: backend cuda can't run on GPU 0: {error}; Triton's kernels are used\n"
    )


class OnGPU:
    """A tensor that says it is on a GPU."""

    device = torch.device("cuda", 0)

    def __init__(self, tensor):
        self.tensor = tensor

    def __getattr__(self, name):
        return getattr(self.tensor, name)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, and the number of compilations."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler.why_not_kept.cache_clear()
    count, build = [], compiler.build

    def counted(*arguments):
        count.append(arguments)
        return build(*arguments)

    monkeypatch.setattr(compiler, "build", counted)
    yield tmp_path / "vlm-ssm" / "kernels" / "cuda", count
    compiler.why_not_kept.cache_clear()


def machine_code():
    return compiler.machine_code("reduce.cu", (("ROW", 0),), "sm_90")


def test_machine_code_is_kept(cache):
    folder, count = cache
    first, second = machine_code(), machine_code()
    assert first == second
    assert len(count) == 1
    assert [file.suffix for file in folder.iterdir()] == [".bin"], "nothing half-written is left"


@pytest.mark.parametrize("damage", [b"", b"x" * 40, None], ids=["empty", "other", "cut off"])
def test_damaged_machine_code_is_compiled_anew(cache, damage):
    folder, count = cache
    first = machine_code()
    (entry,) = folder.iterdir()
    entry.write_bytes(entry.read_bytes()[:-1] if damage is None else damage)
    assert machine_code() == first
    assert len(count) == 2
    content = entry.read_bytes()
    assert hashlib.sha256(content[32:]).digest() == content[:32]


@pytest.mark.skipif(sys.platform == "win32", reason="a user's folders are the user's")
def test_a_folder_of_others_is_not_used(cache, capsys):
    folder, count = cache
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    machine_code()
    machine_code()
    assert len(count) == 2
    assert not list(folder.iterdir())
    assert capsys.readouterr().err.count("are not kept") == 1


def test_the_name_of_an_entry_depends_on_everything(monkeypatch, tmp_path):
    names = {compiler.digest("reduce.cu", (("ROW", n),), arch) for n in (0, 1) for arch in ("sm_80", "sm_90")}
    for path in compiler.SOURCES.iterdir():
        Path(tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(compiler, "SOURCES", tmp_path)
    for name in ("common.cuh", "reduce.cu"):
        with (tmp_path / name).open("a") as file:
            file.write("// changed\n")
        names.add(compiler.digest("reduce.cu", (("ROW", 0),), "sm_80"))
    assert len(names) == 6
