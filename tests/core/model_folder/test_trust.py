"""Files of strangers: opening them runs no code, asks no network and reads nothing outside their folder."""

import json
import shutil
import sys

import pytest
import strangers
import torch
import yaml

from vlm_core.cli import assemble as assemble_cli
from vlm_core.cli import chat as chat_cli
from vlm_core.errors import UserError
from vlm_core.export.hf_export import export_hf
from vlm_core.io.manifest import sha256
from vlm_core.model_folder.assemble import build, load, save
from vlm_core.spec.spec import load_spec
from vlm_core.testing.untrusted_files import no_network

CODE = ("configuration_mine.py", "modeling_mine.py")


@pytest.fixture(scope="module", autouse=True)
def modules_cache(tmp_path_factory):
    """Where transformers copies code before it imports it."""
    cache = tmp_path_factory.mktemp("modules")
    patch = pytest.MonkeyPatch()
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        patch.delitem(sys.modules, name)  # the package of another test's folder
    patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(cache))
    patch.syspath_prepend(cache)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def ran(home):
    return home / "ran"


@pytest.fixture(scope="module")
def spec_file(home, ran, tiny_spec):
    """A person's spec whose language model is a local folder with code."""
    folder = strangers.write_code(home / "mine", ran)
    llm = {
        "type": "transformers",
        "model": str(folder),
        "trust_remote_code": True,
        "revision": strangers.COMMIT,
    }
    file = home / "spec.yaml"
    file.write_text(yaml.safe_dump({**tiny_spec, "llm": llm}))
    return file


@pytest.fixture(scope="module")
def folder(home, spec_file, ran):
    """A model folder with the code of its language model, made with a person's permission."""
    spec, _ = load_spec(spec_file, trust_remote_code=True)
    save(build(spec, weights=False), spec, home / "model")
    ran.unlink()
    return home / "model"


@pytest.fixture
def trace(ran):
    ran.unlink(missing_ok=True)
    return ran


def call(main, monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, args)])
    return main(), capsys.readouterr()


def test_a_spec_alone_does_not_run_local_code(spec_file, trace, tmp_path, monkeypatch, capsys):
    for options in (
        ["--check"],
        ["--out", tmp_path / "out"],
        ["--random-weights", "--out", tmp_path / "out"],
    ):
        code, said = call(assemble_cli.main, monkeypatch, capsys, spec_file, *options)
        assert code == 2
        for name in CODE:
            assert f"{name}  sha256 {sha256(spec_file.parent / 'mine' / name)}" in said.err
        assert "--trust-remote-code" in said.err
    assert not (tmp_path / "out").exists()
    assert not trace.exists()


def test_with_permission_it_runs_and_the_folder_says_how_it_is_loaded(
    spec_file, trace, tmp_path, monkeypatch, capsys
):
    options = ["--random-weights", "--out", tmp_path / "out", "--trust-remote-code"]
    code, said = call(assemble_cli.main, monkeypatch, capsys, spec_file, *options)
    assert code == 0
    assert (
        f"model folder: {tmp_path / 'out'} (runs code of its own: load it with --trust-remote-code)"
        in said.out
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trust_remote_code=True" in card
    assert "It runs its own code: llm/configuration_mine.py, llm/modeling_mine.py; read it first." in card
    assert trace.exists()


@pytest.mark.parametrize("way", ["load", "bench", "language model", "transformers", "processor", "export"])
def test_a_folder_runs_its_code_only_with_permission(way, folder, trace, tmp_path):
    opener = strangers.openers(folder, tmp_path)[way]
    with no_network(), pytest.raises(UserError) as refused:
        opener()
    for name in CODE:
        assert f"{name}  sha256 {sha256(folder / 'llm' / name)}" in str(refused.value)
    assert "Nothing of it was run" in str(refused.value)
    assert not trace.exists()
    with no_network():
        opener(trust_remote_code=True)


def test_commands_take_the_permission(folder, trace, monkeypatch, capsys):
    code, said = call(chat_cli.main, monkeypatch, capsys, folder, "--ask", "a", "--max-new-tokens", 1)
    assert code == 2
    assert "modeling_mine.py  sha256" in said.err
    assert not trace.exists()
    options = ["--ask", "a", "--max-new-tokens", 1, "--trust-remote-code"]
    assert call(chat_cli.main, monkeypatch, capsys, folder, *options)[0] == 0


def test_it_is_the_same_model_again_and_again(folder, tmp_path):
    """Saved from a loaded folder, and exported, it carries its code, and computes the same."""
    model, spec = load(folder, trust_remote_code=True)
    save(model, spec, tmp_path / "again")
    export_hf(tmp_path / "again", tmp_path / "exported", trust_remote_code=True)
    again, _ = load(tmp_path / "exported", trust_remote_code=True)
    x = torch.randn(1, 3, model.llm.dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.llm.logits(model.llm(x)[0]), again.llm.logits(again.llm(x)[0]))


def test_the_spec_of_a_folder_is_no_persons_spec(folder, tmp_path, trace):
    """Named as a file, or as a base, it lets nothing run: neither local code nor that of a hub repository."""
    own = yaml.safe_load((folder / "spec.yaml").read_text())
    (tmp_path / "own.yaml").write_text(f"base: {folder / 'spec.yaml'}\nname: own\n")
    for file in (folder / "spec.yaml", tmp_path / "own.yaml"):
        for model in (own["llm"]["model"], "someone/repository"):
            spec, _ = load_spec(file, [f"llm.model={model}"])
            with no_network(), pytest.raises(UserError, match=r"Nothing of it was run.*--trust-remote-code"):
                build(spec)
    assert not trace.exists()


def test_a_persons_spec_asks_the_hub_for_the_code_of_its_commit(spec_file):
    """Out of reach here: what matters is that no further permission is asked for."""
    for trust in ({}, {"trust_remote_code": True}):
        spec, _ = load_spec(spec_file, ["llm.model=someone/repository"], **trust)
        with pytest.raises(UserError, match="llm model 'someone/repository': transformers could not load it"):
            build(spec, weights=False)


def _mine(folder, part, **changes):
    strangers.rewrite_json(folder / part / "config.json", **changes)


def test_a_run_loads_its_own_model_if_the_persons_spec_allows_the_code(spec_file, folder):
    from vlm_core.plugins.hub import runs_own_code

    for file, allowed in ((spec_file, True), (folder / "spec.yaml", False)):
        spec, _ = load_spec(file, ["llm.model=someone/repository"])
        assert runs_own_code([spec.encoder, spec.llm]) is allowed


def test_code_is_not_imported_from_a_folder_that_others_can_write(folder, trace, tmp_path, monkeypatch):
    """transformers copies it there first."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules").chmod(0o777)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(
        UserError, match=r"code of models is imported from .*modules, which isn't safe: .*chmod go-w"
    ):
        load(folder, trust_remote_code=True)
    assert not trace.exists()


HOSTILE = {
    "hub code": (
        lambda f: _mine(
            f, "llm", auto_map={"AutoConfig": "evil/repo--x.C", "AutoModelForCausalLM": "evil/repo--x.M"}
        ),
        "names code of the repository evil/repo, which is not among the files here",
    ),
    "code of another folder": (
        lambda f: _mine(f, "llm", auto_map={"AutoConfig": f"{f.parent}/configuration_mine.MineConfig"}),
        r"config.json names '/.*' in auto_map; expected module.Class, of a file in this folder",
    ),
    "kernel": (
        lambda f: _mine(f, "llm", auto_map=None, model_type="llama", attn_implementation="evil/kernel"),
        'attn_implementation names "evil/kernel"; a saved model has all of its files in its own folder',
    ),
    "backbone": (
        lambda f: _mine(f, "llm", auto_map=None, model_type="llama", backbone="evil/repo"),
        'backbone names "evil/repo"',
    ),
    "timm, hub": (
        lambda f: strangers.rewrite_json(f / "encoder" / "timm.json", model="hf-hub:evil/repo"),
        "model is 'hf-hub:evil/repo'; expected a model name of timm",
    ),
    "timm, folder": (
        lambda f: strangers.rewrite_json(f / "encoder" / "timm.json", model=f"local-dir:{f.parent}"),
        "model is 'local-dir:.*; expected a model name of timm",
    ),
    "timm, none": (
        lambda f: strangers.rewrite_json(f / "encoder" / "timm.json", model=None),
        "model is None; expected a model name of timm",
    ),
    "timm, checkpoint": (
        lambda f: strangers.rewrite_json(
            f / "encoder" / "timm.json", model_args={"checkpoint_path": "/x.pth"}
        ),
        "model_args can't hold checkpoint_path, which would read other files",
    ),
    "base": (
        lambda f: (f / "spec.yaml").write_text("base: ../spec.yaml\n"),
        r"spec.yaml:1: base: the spec of a model folder must be complete; expected no base",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_folder_may_not_name(kind, folder, tmp_path, trace):
    """Whoever opens it, and also with the permission to run its own code."""
    change, message = HOSTILE[kind]
    shutil.copytree(folder, tmp_path / "m")
    change(tmp_path / "m")
    strangers.seal(tmp_path / "m")
    for opener in strangers.openers(tmp_path / "m", tmp_path).values():
        with no_network(), pytest.raises(UserError):
            opener()
    with no_network(), pytest.raises(UserError, match=message):
        load(tmp_path / "m", trust_remote_code=True)


def test_open_clip_takes_its_tower_from_no_hub(tmp_path):
    from vlm_encoders import OpenClipConfig

    vision = {"timm_model_name": "hf-hub:evil/repo", "timm_model_pretrained": True, "image_size": 32}
    content = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision}, "preprocess_cfg": {}}
    facts = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "resize",
        "crop_pct": 1.0,
    }
    file = tmp_path / "open_clip_config.json"
    file.write_text(json.dumps({**content, "preprocessing": {"values": facts, "sources": {}}}))
    with (
        no_network(),
        pytest.raises(
            UserError, match="timm_model_name is 'hf-hub:evil/repo'; expected a model name of timm"
        ),
    ):
        OpenClipConfig(model="mine").build(weights=False, assets=tmp_path)
    vision["timm_model_name"] = "test_vit"
    file.write_text(json.dumps({**content, "preprocessing": {"values": facts, "sources": {}}}))
    with no_network():  # its pretrained weights are not fetched either
        OpenClipConfig(model="mine").build(weights=False, assets=tmp_path)


def test_an_index_names_no_weights_elsewhere(home, tmp_path, trace):
    from vlm_llms.configs import TransformersLLMConfig

    model = strangers.write_code(tmp_path / "m", trace, model_type="llama", auto_map=None)
    for name in ("../other.safetensors", "/other.safetensors"):
        index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match="expected a weight_map from tensors to files beside it"):
            TransformersLLMConfig(model=str(model)).build()
