"""The fenced code blocks of a Markdown page, and how each kind is tried out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_core.diagnose.model_summary import ModelSummary, summarize
from vlm_core.spec.spec import Spec, load_spec

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})\s*([^`]*)$")
_FILE = re.compile(r"# ([\w./-]+\.ya?ml)\n")
_BASE = """\
encoder: {type: timm, model: vit_tiny_patch16_224}
connector: {type: mlp}
llm: {type: mamba, d_model: 32, n_layer: 1}
"""


@dataclass(frozen=True)
class Block:
    """```language info; `line` is the fence's, from 1."""

    language: str
    info: str
    text: str
    line: int

    @property
    def file_name(self) -> str:
        """The file that a first line such as `# own.yaml` names."""
        named = _FILE.match(self.text)
        return named[1] if named else f"line-{self.line}.yaml"


def blocks(path: Path) -> list[Block]:
    """Every fenced block of a page in order; a fence that is never closed is a `ValueError`."""
    fences: list[Block] = []
    opened: re.Match[str] | None = None
    start, body = 0, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None:
            opened, start, body = fence, number, []
        elif fence and fence[2].startswith(opened[2]) and not fence[3]:
            language, _, info = opened[3].strip().partition(" ")
            fences.append(Block(language, info, "".join(body), start))
            opened = None
        else:
            body.append(line.removeprefix(opened[1]) + "\n")
    if opened:
        raise ValueError(f"{path}:{start}: this block is never closed")
    return fences


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    """Execute in `namespace`, which should be a module's; tracebacks show the page's own lines."""
    code = compile("\n" * block.line + block.text, str(page), "exec", dont_inherit=True)
    exec(code, namespace)


def check_spec(block: Block, folder: Path) -> ModelSummary:
    """Write a complete spec into `folder` and do what `vlm-assemble --check` does."""
    file = folder / block.file_name
    file.write_text(block.text, encoding="utf-8")
    return summarize(load_spec(file)[0])


def check_fragment(block: Block, folder: Path) -> Spec:
    """Validate a part of a spec, with the parts that it leaves out filled in."""
    keys = {line.split(":")[0] for line in block.text.splitlines() if re.match(r"\w+:", line)}
    base_lines = [line for line in _BASE.splitlines() if line.split(":")[0] not in keys]
    file = folder / block.file_name
    file.write_text("\n".join([block.text, *base_lines]), encoding="utf-8")
    return load_spec(file)[0]


def run_bash(block: Block, folder: Path) -> str:
    """Run with `bash -e` in `folder`, this environment's commands first, no network; returns the output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = ["bash", "-e", "-o", "pipefail", "-c", block.text]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"line {block.line}:\n{block.text}\n{done.stdout}{done.stderr}"
    return done.stdout
