"""The CUDA kernels of mamba_ssm (Mamba-1) and causal_conv1d from their sources, for one kind of GPU, in a minute.

    pip download --no-deps --no-binary :all: mamba-ssm==2.3.1 causal-conv1d==1.7.0   # then unpack both
    uv run python -m perf.peers.mamba_ssm_build SOURCES TARGET
    PYTHONPATH=TARGET uv run python -m perf.gpu.scan

SOURCES holds both unpacked archives. Needs nvcc and a C++ compiler. The libraries' own builds take an hour, since they
instantiate each kernel for all dtypes, lengths and options. Here only those that the measurements run are: bf16 rows,
real A, B and C that vary with time, softplus, more than 512 positions for the scan, and four taps for the convolution.
The kernels' code and the compiler's options are the libraries' own. Other inputs raise an error.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

SCAN, CONV = "selective_scan_cuda", "causal_conv1d_cuda"
SOURCES = {
    SCAN: [
        "csrc/selective_scan/selective_scan.cpp",
        "csrc/selective_scan/selective_scan_fwd_bf16.cu",
        "csrc/selective_scan/selective_scan_bwd_bf16_real.cu",
    ],
    CONV: [f"csrc/causal_conv1d{end}" for end in (".cpp", "_fwd.cu", "_bwd.cu", "_update.cu")],
}
FOLDERS = {SCAN: "mamba_ssm-*", CONV: "causal_conv1d-*"}
NVCC = [
    "-O3",
    "-std=c++17",
    "-lineinfo",
    "--use_fast_math",
    "--expt-relaxed-constexpr",
    "--expt-extended-lambda",
    "-Xcompiler",
    "-fPIC",
    *(
        f"-U__CUDA_NO_{name}__"
        for kind in ("HALF", "BFLOAT16", "BFLOAT162")
        for name in (f"{kind}_OPERATORS", f"{kind}_CONVERSIONS")
    ),
]
FIXED = {
    "params.is_variable_B": "kIsVariableB",
    "params.is_variable_C": "kIsVariableC",
    "params.delta_softplus": "kDeltaSoftplus",
    "params.z_ptr != nullptr ": "kHasZ",
    "params.silu_activation": "kSiluAct",
}
"""Conditions that are true in every measurement: the other half is not instantiated."""
ALWAYS = """#define ALWAYS(COND, CONST_NAME, ...) \\
    [&] { TORCH_CHECK(COND, #COND " is false: not built"); constexpr bool CONST_NAME = true; return __VA_ARGS__(); }()
"""


def trimmed(text: str) -> str:
    """A source without the instances that no measurement needs."""
    for condition, name in FIXED.items():
        text = text.replace(f"BOOL_SWITCH({condition}, {name}", f"ALWAYS({condition}, {name}")
    # dtypes: bf16 rows; weights are fp32 or bf16
    text = re.sub(r"if \((I|W)TYPE == at::ScalarType::Half\) \{.*?\} else if", "if", text, flags=re.DOTALL)
    text = re.sub(
        r"\} else if \(ITYPE == at::ScalarType::Float\)  \{.*?\} else", "} else", text, flags=re.DOTALL
    )
    text = re.sub(
        r"\} else if \(WTYPE == at::ScalarType::ComplexFloat\) \{.*?\} else", "} else", text, flags=re.DOTALL
    )
    text = re.sub(r"^template void \w+<(?:float|at::Half), .*$", "", text, flags=re.MULTILINE)
    text = re.sub(
        r"^template void \w+<at::BFloat16, (?:at::Half|complex_t)>.*$", "", text, flags=re.MULTILINE
    )
    # lengths above 512; four taps
    text = re.sub(
        r"if \(params\.seqlen <= 128\) \{.*?\} else if \(params\.seqlen <= 1024\)",
        'TORCH_CHECK(params.seqlen > 512, "shorter: not built");\n        if (params.seqlen <= 1024)',
        text,
        count=1,
        flags=re.DOTALL,
    )
    return re.sub(
        r"if \(params\.width == 2\) \{.*?\} else if \(params\.width == 4\)",
        "if (params.width == 4)",
        text,
        flags=re.DOTALL,
    )


def copied(sources: Path, target: Path, extension: str) -> Path:
    """The sources of an extension, trimmed, in a folder of the target; its Python package beside them."""
    folder = next(iter(sorted(sources.glob(FOLDERS[extension]))), None)
    if folder is None:
        raise SystemExit(f"{sources} has no folder {FOLDERS[extension]}")
    package = "mamba_ssm" if extension == SCAN else "causal_conv1d"
    shutil.copytree(folder / package, target / package, dirs_exist_ok=True)
    build = target / "build" / extension
    shutil.copytree(folder / "csrc", build / "csrc", dirs_exist_ok=True)
    for path in (p for p in (build / "csrc").rglob("*") if p.suffix in (".cu", ".cuh", ".cpp", ".h")):
        path.write_text(trimmed(path.read_text()))
    for path in (build / "csrc").rglob("static_switch.h"):
        path.write_text(path.read_text() + f"\n#include <c10/util/Exception.h>\n{ALWAYS}")
    return build


def compiled(build: Path, extension: str, source: str, options: argparse.Namespace) -> Path:
    """One object file."""
    file, torch = build / source, Path(options.torch)
    includes = [
        torch / "include",
        torch / "include/torch/csrc/api/include",
        *map(Path, options.include),
        file.parent,
    ]
    flags = [f"-I{path}" for path in includes] + [
        f"-DTORCH_EXTENSION_NAME={extension}",
        "-DTORCH_API_INCLUDE_EXTENSION_H",
    ]
    target = file.with_suffix(".cu.o" if file.suffix == ".cu" else ".cpp.o")
    compiler = (
        ["nvcc", *NVCC, f"-gencode=arch=compute_{options.arch},code=sm_{options.arch}"]
        if file.suffix == ".cu"
        else [*shlex.split(options.cxx), "-O2", "-std=c++17", "-fPIC", f"-I{options.cuda}/include"]
    )
    run([*compiler, *flags, "-c", str(file), "-o", str(target)])
    return target


def link(objects: list[str], library: Path, options: argparse.Namespace) -> None:
    """The extension, which names torch's libraries: symbols are looked up in those alone."""
    folders = [f"-L{options.cuda}/lib64", f"-L{options.torch}/lib"]
    needed = [f"-l{name}" for name in ("cudart", "c10", "c10_cuda", "torch", "torch_cpu", "torch_python")]
    words = [*shlex.split(options.cxx), "-shared", *objects, "-o", str(library), "-Wl,--no-as-needed"]
    run([*words, *folders, *needed])


def run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)}\n{done.stderr[-4000:]}")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("sources", type=Path, help="folder with the unpacked archives")
    arguments.add_argument("target", type=Path, help="folder to put on PYTHONPATH")
    spec = find_spec("torch")
    arguments.add_argument(
        "--torch", default=Path(spec.origin or "").parent if spec else None, help="torch's folder"
    )
    arguments.add_argument(
        "--include", nargs="*", default=[sysconfig.get_paths()["include"]], help="Python's headers"
    )
    nvcc = shutil.which("nvcc")
    arguments.add_argument("--cuda", default=Path(nvcc).resolve().parents[1] if nvcc else None)
    arguments.add_argument("--arch", default="90", help="compute capability, times 10")
    arguments.add_argument("--cxx", default="c++")
    arguments.add_argument("--jobs", type=int, default=8)
    options = arguments.parse_args()
    begin, target = time.perf_counter(), options.target.resolve()
    builds = {extension: copied(options.sources, target, extension) for extension in SOURCES}
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = {e: [pool.submit(compiled, builds[e], e, s, options) for s in SOURCES[e]] for e in SOURCES}
        for extension, futures in jobs.items():
            objects = [str(future.result()) for future in futures]
            link(objects, target / f"{extension}.so", options)
    print(f"built {', '.join(SOURCES)} for sm_{options.arch} in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
