"""What needs no computation loads no heavy library."""

import json
import sys
from pathlib import Path

import pytest
from processes import run

HEAVY = ["torch", "torchvision", "transformers", "timm", "open_clip", "accelerate", "matplotlib"]
HEAVY += ["numba", "triton", "mamba_ssm"]
PROBE = f"""
import sys
from importlib.metadata import entry_points
main = next(iter(entry_points(group="console_scripts", name=sys.argv.pop(1)))).load()
try:
    code = main()
except SystemExit as stop:
    code = stop.code
import json
loaded = sorted(set({HEAVY}) & set(sys.modules))
print("\\nPROBE " + json.dumps([code or 0, loaded]), file=sys.stderr)
"""

COMMANDS = [
    ("vlm-assemble", "--help"),
    ("vlm-assemble", "--list"),
    ("vlm-assemble", "--schema"),
    ("vlm-chat", "--help"),
    ("vlm-train", "--help"),
    ("vlm-train", "run", "--help"),
    ("vlm-train", "report", "--help"),
    ("vlm-bench", "--help"),
    ("vlm-bench", "score", "pope", "--help"),
    ("vlm-bench", "submit", "mmbench", "--help"),
    ("vlm-predict", "--help"),
    ("vlm-serve", "--help"),
    ("vlm-serve", "keys", "--help"),
    ("vlm-serve", "keys", "add", "--help"),
]


def probe(*command: str | Path) -> tuple[int, list[str], str, str]:
    """Exit code, heavy modules loaded, standard output, standard error."""
    done = run(sys.executable, "-c", PROBE, *command)
    text, mark, result = done.stderr.rpartition("PROBE ")
    assert mark, done.stderr
    code, loaded = json.loads(result)
    return code, loaded, done.stdout, text


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_command(command: tuple[str, ...]) -> None:
    code, loaded, out, err = probe(*command)
    assert loaded == []
    assert code == 0, err
    assert out


def test_the_schema_is_json() -> None:
    _, _, out, _ = probe("vlm-assemble", "--schema")
    assert {"encoder", "connector", "llm"} <= json.loads(out)["properties"].keys()


def test_spec_error(tmp_path: Path) -> None:
    spec = tmp_path / "bad.yaml"
    spec.write_text(
        "encoder: {type: timm, model: x}\nconnector: {type: vss-l3}\nllm: {type: mamba, weights: x}\n"
    )
    code, loaded, _, err = probe("vlm-assemble", spec)
    assert loaded == []
    assert code == 2
    assert f"{spec}:2: connector.type: unknown connector 'vss-l3'" in err
    assert "did you mean 'vss-l2'?" in err
    assert "Traceback" not in err


def test_a_missing_file(tmp_path: Path) -> None:
    code, loaded, _, err = probe("vlm-assemble", tmp_path / "absent.yaml")
    assert (code, loaded) == (2, [])
    assert "absent.yaml: cannot read this spec" in err


def test_importing_a_package_is_light() -> None:
    names = ["vlm_core", "vlm_encoders", "vlm_connectors", "vlm_llms", "vlm_train", "vlm_bench", "vlm_serve"]
    code = f"import sys, {', '.join(names)}; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert run(sys.executable, "-c", code).stdout == "[]\n"


def test_vlm_ssm_stands_alone() -> None:
    """It is made of torch and its kernels' compilers; no other package of ours and no model library comes with it."""
    unwanted = sorted(set(HEAVY) - {"torch", "numba", "triton", "mamba_ssm"})
    code = f"""
import sys, vlm_ssm
print(sorted({{m.split(".")[0] for m in sys.modules if m.startswith("vlm_")}}))
print(sorted(set({unwanted}) & set(sys.modules)))
"""
    assert run(sys.executable, "-c", code).stdout == "['vlm_ssm']\n[]\n"
