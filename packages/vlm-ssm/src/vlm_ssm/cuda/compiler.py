"""CUDA sources to machine code by NVRTC, kept on disk by the digest of everything that they depend on.

The cache's folder must be trusted: what lies there runs on the GPU. Where it isn't, every process compiles anew.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from cuda.bindings import nvrtc  # pyright: ignore[reportAttributeAccessIssue]

from vlm_ssm.runtime.kernel_cache import kernel_folder, why_no_cache

SOURCES = Path(__file__).parent / "kernels"
LOWEST = 80
"""Compute capability, times 10, of the oldest GPUs whose instructions the kernels use."""


class CompilationError(RuntimeError):
    """NVRTC can't be used, or refuses a source; the message has its log."""


def call(function: Any, *arguments: Any) -> Any:
    """The result of a function of `cuda.bindings`, whose first value is an error code."""
    code, *values = function(*arguments)
    if int(code):
        raise CompilationError(f"{function.__name__}: {code.name}")
    return values[0] if len(values) == 1 else tuple(values)


@cache
def version() -> str:
    """NVRTC's version, such as "13.0"."""
    return ".".join(map(str, call(nvrtc.nvrtcVersion)))


def target(capability: int) -> str:
    """`-arch` for a compute capability (90 for 9.0): machine code; portable code for GPUs unknown to NVRTC."""
    known = call(nvrtc.nvrtcGetSupportedArchs)
    if capability < LOWEST:
        raise CompilationError(f"compute capability {capability / 10} is below {LOWEST / 10}")
    return f"sm_{capability}" if capability in known else f"compute_{max(n for n in known if n < capability)}"


def _headers() -> list[Path]:
    return sorted(SOURCES.glob("*.cuh"))


def build(
    file: str, defines: tuple[tuple[str, int], ...], arch: str, *, verbose: bool = False
) -> tuple[bytes, str]:
    """A file of `kernels/` -> machine code (portable code if `arch` starts with "compute"), and the compiler's log."""
    headers = {path.name.encode(): path.read_bytes() for path in _headers()}
    source = (SOURCES / file).read_bytes()
    program = call(
        nvrtc.nvrtcCreateProgram, source, file.encode(), len(headers), [*headers.values()], [*headers]
    )
    options = [
        f"-arch={arch}".encode(),
        b"-std=c++17",
        *(f"-D{name}={value}".encode() for name, value in defines),
    ]
    options += [b"--ptxas-options=-v"] if verbose else []
    try:
        (code,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        log = _filled(call(nvrtc.nvrtcGetProgramLogSize, program), nvrtc.nvrtcGetProgramLog, program)
        text = log.rstrip(b"\0").decode(errors="replace").strip()
        if int(code):
            raise CompilationError(f"{file} for {arch}: {text or code.name}")
        size, get = (
            (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
            if arch.startswith("compute")
            else (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
        )
        return _filled(call(size, program), get, program), text
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _filled(size: int, get: Any, program: Any) -> bytes:
    """`size` bytes that `get` writes. They are written into a bytes object, so it must belong to nobody else.

    CPython shares all bytes objects of length 0 and 1, and a log without text has length 1: hence one byte more.
    """
    buffer = bytes(size + 1)
    call(get, program, buffer)
    return buffer[:size]


def digest(file: str, defines: tuple[tuple[str, int], ...], arch: str) -> str:
    """Of everything that machine code depends on."""
    parts = [path.read_bytes() for path in (*_headers(), SOURCES / file)]
    parts.append(repr((file, defines, arch, version())).encode())
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(len(part).to_bytes(8, "little") + part)
    return checksum.hexdigest()


@cache
def why_not_kept() -> str | None:
    """Why machine code is not kept: the cache's folder can't be made, or others could write into it."""
    folder = kernel_folder("cuda")
    problem = why_no_cache(folder)
    if problem:
        sys.stderr.write(f"vlm-ssm: {folder}: {problem}; compiled kernels are not kept\n")
    return problem


def machine_code(file: str, defines: tuple[tuple[str, int], ...], arch: str) -> bytes:
    """From the cache, or compiled now and put there; a damaged entry is compiled anew."""
    if why_not_kept():
        return build(file, defines, arch)[0]
    entry = kernel_folder("cuda") / f"{Path(file).stem}-{digest(file, defines, arch)[:32]}.bin"
    if (image := _read(entry)) is not None:
        return image
    image = build(file, defines, arch)[0]
    try:
        _write(entry, image)
    except OSError as error:
        sys.stderr.write(f"vlm-ssm: {entry}: {error.strerror or error}; the compiled kernel is not kept\n")
    return image


def _read(entry: Path) -> bytes | None:
    """An entry whose checksum is right, or None."""
    try:
        content = entry.read_bytes()
    except OSError:
        return None
    checksum, image = content[:32], content[32:]
    return image if hashlib.sha256(image).digest() == checksum else None


def _write(entry: Path, image: bytes) -> None:
    """At once, so that two processes that compile side by side never see half a file."""
    with tempfile.NamedTemporaryFile(dir=entry.parent, prefix=entry.name, delete=False) as file:
        try:
            file.write(hashlib.sha256(image).digest() + image)
            file.close()
            os.replace(file.name, entry)
        except BaseException:
            os.unlink(file.name)
            raise
