"""`vlm-assemble --new-plugin` names an installer that the environment has."""

import pytest

from vlm_core.cli import assemble


@pytest.mark.parametrize(("found", "installer"), [(object(), "pip install"), (None, "uv pip install")])
def test_the_installer_of_the_environment_is_named(found, installer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(assemble, "find_spec", lambda name: found)
    folder = tmp_path / "vlm-connector-windows"
    assert assemble.new_plugin(["connector", "windows"], folder) == 0
    assert f"try it:  {installer} -e '{folder}[test]'" in capsys.readouterr().out
