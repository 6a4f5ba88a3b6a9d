"""Commands in fresh processes, and plugins made on the spot."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SCRIPT = "import sys; from importlib.metadata import entry_points as e; "
SCRIPT += "sys.exit(next(iter(e(group='console_scripts', name=sys.argv.pop(1)))).load()())"


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command with `env` added to the environment; what it did is for the caller to judge."""
    clean = {k: v for k, v in os.environ.items() if k not in ("VLM_DISABLE_PLUGINS", "PYTHONPATH")}
    full = clean | {"COLUMNS": "200", "PYTHONWARNINGS": "ignore"} | dict(env or {})
    return subprocess.run([*map(str, command)], env=full, capture_output=True, text=True, check=False)


def succeed(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command that must succeed; returns its standard output."""
    done = run(*command, env=env)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def script(
    name: str, *args: str | Path, python: str | Path = sys.executable, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a console script by its entry point, so that any environment which sees the package can run it."""
    return run(python, "-c", SCRIPT, name, *args, env=env)


def add_plugin(folder: Path, distribution: str, code: str) -> dict[str, str]:
    """Lay out an installed distribution in `folder`; returns the environment in which it is seen."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[vlm]\n{distribution} = {module}\n")
    return {"PYTHONPATH": str(folder)}


def connector_plugin(name: str, before: str = "") -> str:
    """The source of a plugin that offers the connector `name`."""
    return f"""{before}
from typing import Literal
from vlm_core.plugins import ConnectorConfig, hookimpl

class Config(ConnectorConfig):
    type: Literal["{name}"] = "{name}"

@hookimpl
def vlm_connectors():
    return [Config]
"""
