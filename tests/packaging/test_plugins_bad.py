"""A faulty plugin is named, and hides none of the others."""

import sys
from pathlib import Path

import pytest
from processes import add_plugin, connector_plugin, run, script, succeed

GET = "import sys; from vlm_core.plugins.registry import installed; print(installed().get(*sys.argv[1:]).__name__)"

BROKEN = {
    "missing library": (
        "import not_installed_anywhere",
        "ModuleNotFoundError: No module named 'not_installed",
    ),
    "raises": ("raise RuntimeError('no licence found')", "RuntimeError: no licence found"),
    "no syntax": ("def (:", "SyntaxError"),
    "unknown hook": (
        "from vlm_core.plugins import hookimpl\n@hookimpl\ndef vlm_conectors(): return []",
        "PluginValidationError: unknown hook 'vlm_conectors'",
    ),
    "newer API": ("VLM_API = 2", "made for plugin API 2; this vlm-core has 1: install a newer vlm-core"),
    "older API": (
        "VLM_API = 0",
        "made for plugin API 0; this vlm-core has 1: install a newer version of the plugin",
    ),
    "API as text": ("VLM_API = '1'", "VLM_API = '1' is no whole number; this vlm-core has plugin API 1"),
    "hook raises": (
        "from vlm_core.plugins import hookimpl\n@hookimpl\ndef vlm_connectors(): raise KeyError('x')",
        "KeyError: 'x'",
    ),
    "hook returns no configs": (
        "from vlm_core.plugins import hookimpl\n@hookimpl\ndef vlm_connectors(): return ['pool']",
        "AttributeError",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_reported_and_the_others_work(name: str, tmp_path: Path) -> None:
    code, message = BROKEN[name]
    add_plugin(tmp_path, "bad-plugin", code)
    env = add_plugin(tmp_path, "good-plugin", connector_plugin("good"))
    done = script("vlm-assemble", "--list", env=env)
    assert done.returncode == 1
    assert "good-plugin 1.0" in done.stdout
    assert "vlm-connectors" in done.stdout
    assert f"broken plugin: bad-plugin: {message}" in done.stderr
    assert "Traceback" not in done.stderr
    assert succeed(sys.executable, "-c", GET, "connector", "good", env=env) == "Config\n"


def test_asking_for_an_unknown_component_mentions_the_broken_plugin(tmp_path: Path) -> None:
    env = add_plugin(tmp_path, "bad-plugin", "raise RuntimeError('no licence found')")
    done = run(sys.executable, "-c", GET, "connector", "mpl", env=env)
    assert done.returncode != 0
    assert "unknown connector 'mpl'; possible: " in done.stderr
    assert "did you mean 'mlp'?" in done.stderr
    assert "plugin bad-plugin failed to import and may hold it: RuntimeError: no licence found" in done.stderr


def test_two_plugins_with_one_name(tmp_path: Path) -> None:
    add_plugin(tmp_path, "first-plugin", connector_plugin("same"))
    env = add_plugin(tmp_path, "second-plugin", connector_plugin("same"))
    done = run(sys.executable, "-c", GET, "connector", "same", env=env)
    assert "connector 'same' is claimed by first-plugin and second-plugin" in done.stderr
    assert "VLM_DISABLE_PLUGINS=second-plugin" in done.stderr
    listing = script("vlm-assemble", "--list", env=env)
    assert listing.returncode == 1
    for distribution in ("first-plugin 1.0", "second-plugin 1.0"):
        (line,) = [line for line in listing.stdout.splitlines() if distribution in line]
        assert line.endswith("claimed by two packages: neither can be used")
    off = env | {"VLM_DISABLE_PLUGINS": "second-plugin"}
    assert succeed(sys.executable, "-c", GET, "connector", "same", env=off) == "Config\n"


def test_a_clash_with_our_own_component(tmp_path: Path) -> None:
    env = add_plugin(tmp_path, "other-mlp", connector_plugin("mlp"))
    done = run(sys.executable, "-c", GET, "connector", "mlp", env=env)
    assert "connector 'mlp' is claimed by other-mlp and vlm-connectors" in done.stderr
    assert succeed(sys.executable, "-c", GET, "connector", "vss-l2", env=env)


def test_a_disabled_plugin_is_never_imported(tmp_path: Path) -> None:
    canary = tmp_path / "imported"
    touch = f"import pathlib; pathlib.Path({str(canary)!r}).touch()"
    env = add_plugin(tmp_path, "loud-plugin", connector_plugin("loud", touch))
    done = script("vlm-assemble", "--list", env=env | {"VLM_DISABLE_PLUGINS": "nobody, loud-plugin"})
    assert "loud" not in done.stdout + done.stderr
    assert not canary.exists()
    assert "loud-plugin 1.0" in script("vlm-assemble", "--list", env=env).stdout
    assert canary.exists()


def test_a_plugin_may_declare_its_api(tmp_path: Path) -> None:
    env = add_plugin(tmp_path, "good-plugin", connector_plugin("good") + "\nVLM_API = 1\n")
    assert succeed(sys.executable, "-c", GET, "connector", "good", env=env) == "Config\n"


HALF = """
from vlm_core.plugins import hookimpl
@hookimpl
def vlm_connectors(): raise KeyError("x")
@hookimpl
def vlm_scans(): return {"spiral": lambda h, w: [list(range(h * w))]}
"""
BROKEN_IS_COMPLETE = "from vlm_core.plugins.registry import installed; print(installed().broken)"


def test_a_hook_is_called_when_its_kind_is_needed(tmp_path: Path) -> None:
    """So a hook that fails leaves the plugin's other kinds, and is an error of the plugin as soon as someone looks."""
    env = add_plugin(tmp_path, "half-plugin", HALF)
    scan = "from vlm_core.plugins.registry import installed; print(installed().get('scan', 'spiral')(1, 2))"
    assert succeed(sys.executable, "-c", scan, env=env) == "[[0, 1]]\n"
    assert "half-plugin" in succeed(sys.executable, "-c", BROKEN_IS_COMPLETE, env=env)
    done = run(sys.executable, "-c", GET, "connector", "mpl", env=env)
    assert "plugin half-plugin failed to import and may hold it: KeyError: 'x'" in done.stderr
