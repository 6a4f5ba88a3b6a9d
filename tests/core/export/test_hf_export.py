"""Folders that carry their code: nothing of ours is imported, and the logits are the same."""

import re
import shutil
import sys

import pytest
import torch
from PIL import Image

from vlm_core.cli import assemble
from vlm_core.errors import UserError
from vlm_core.export import code_export
from vlm_core.export.hf_export import builder, code_files, export_hf
from vlm_core.io.manifest import verify_folder
from vlm_core.io.video.sources import Sampling
from vlm_core.model_folder.assemble import build, save
from vlm_core.plugins.config import FactoryCall
from vlm_core.spec.spec import Spec

PICTURE = Image.new("RGB", (40, 30), "teal")


@pytest.fixture(scope="module")
def clean_folder(clean_spec, tmp_path_factory):
    place, spec = tmp_path_factory.mktemp("clean"), Spec.model_validate(clean_spec)
    save(build(spec, weights=False), spec, place / "model")
    export_hf(place / "model", place / "out", with_code=True)
    return place / "out"


def test_no_exported_file_imports_ours(clean_folder):
    verify_folder(clean_folder)
    files = sorted(clean_folder.glob("*.py"))
    assert len(files) > 20
    for file in files:
        text = file.read_text()
        found = re.findall(r"^\s*(?:from|import) ([a-z_]\w*)", text, re.MULTILINE)
        assert not {
            "vlm_core",
            "vlm_llms",
            "vlm_encoders",
            "vlm_connectors",
            "pydantic",
            "pluggy",
            "yaml",
        } & set(found)
        compile(text, str(file), "exec")
        for needed in re.findall(r"^\s*from \.(\w+) import", text, re.MULTILINE):
            assert (clean_folder / f"{needed}.py").is_file(), f"{file.name} needs {needed}"
    assert "/" not in (clean_folder / "vlm_core_hf_components.py").read_text().replace("folder / ", ""), (
        "no path"
    )


def test_the_exported_code_gives_our_logits(clean_folder, tmp_path, monkeypatch):
    """In this process: classes as transformers takes them from the folder, beside the installed packages."""
    from transformers import dynamic_module_utils as dynamic

    import vlm_core.hf

    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)  # of another test's folder
    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    take = dynamic.get_class_from_dynamic_module
    theirs = take("vlm_core_hf_modeling.VLMForConditionalGeneration", clean_folder).from_pretrained(
        clean_folder
    )
    reader = take("vlm_core_hf_processing.VLMProcessor", clean_folder).from_pretrained(clean_folder)
    ours = vlm_core.hf.VLMForConditionalGeneration.from_pretrained(clean_folder)
    assert type(theirs.model.llm).__module__.startswith("transformers_modules.")
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")  # numba does not travel
    inputs = reader(images=[PICTURE, PICTURE], text=["what?", "is there a circle in it?"])
    mine = vlm_core.hf.VLMProcessor.from_pretrained(clean_folder)(
        images=[PICTURE, PICTURE], text=["what?", "is there a circle in it?"]
    )
    assert all(torch.equal(inputs[key], mine[key]) for key in mine)
    with torch.no_grad():
        assert torch.equal(theirs(**inputs).logits, ours(**mine).logits)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(theirs.generate(**inputs, **options), ours.generate(**mine, **options))
    talk = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "teal"}]
    rows = [{"messages": talk, "images": [PICTURE]}]
    batch = reader.data_collator()(rows)
    same = vlm_core.hf.VLMProcessor.from_pretrained(clean_folder).data_collator()(rows)
    assert torch.equal(batch["labels"], same["labels"])
    theirs.train()(**batch).loss.backward()
    theirs.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "vlm_core_hf_modeling.py").is_file()


def test_a_timm_tower_says_what_it_needs(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["vlm-assemble", str(tiny_folder), "--export-hf", str(tmp_path / "m"), "--with-code"]
    )
    assert assemble.main() == 0
    assert "import timm" in (tmp_path / "m" / "vlm_core_hf_components.py").read_text()
    card = (tmp_path / "m" / "README.md").read_text()
    assert "Its code needs timm besides transformers" in card
    assert "trust_remote_code=True" in card


def test_without_code_no_code_is_written(clean_folder, tmp_path):
    export_hf(clean_folder, tmp_path / "m")
    assert not list((tmp_path / "m").glob("*.py"))
    assert "auto_map" not in (tmp_path / "m" / "config.json").read_text()
    assert "import vlm_core.hf" in (tmp_path / "m" / "README.md").read_text()


def test_what_cannot_be_exported_says_so(tmp_path):
    from vlm_core.plugins.config import ConnectorConfig
    from vlm_llms.configs import TransformersLLMConfig

    with pytest.raises(UserError, match=r"has no factory_call\(\); export without --with-code"):
        type("Own", (ConnectorConfig,), {"label": lambda self: "own"})().factory_call()
    remote = TransformersLLMConfig(model="a/b", trust_remote_code=True, revision="0" * 40)
    with pytest.raises(UserError, match="code of its own repository"):
        remote.factory_call()
    with pytest.raises(UserError, match="needs a model folder"):
        export_hf(tmp_path / "none", tmp_path / "m")


def test_the_code_of_each_of_ours_is_exported(tmp_path):
    """Files for all parts that these packages have, whatever libraries they need."""
    from vlm_connectors.configs import MLPConfig, VSSMLPConfig
    from vlm_encoders import OpenClipConfig, TimmConfig
    from vlm_llms.configs import TransformersLLMConfig

    llm = TransformersLLMConfig(model="a/b").factory_call()
    timm = {
        "encoder": TimmConfig(model="vit").factory_call(),
        "connector": VSSMLPConfig().factory_call(),
        "llm": llm,
    }
    clip = {
        "encoder": OpenClipConfig(model="ViT").factory_call(),
        "connector": MLPConfig().factory_call(),
        "llm": llm,
    }
    files = {
        "vlm_encoders_towers_timm_tower.py",
        "vlm_encoders_weights_checkpoints.py",
        "vlm_llms_transformers_hf_adapter.py",
    }
    assert files <= set(code_files(timm))
    assert {"vlm_encoders_towers_open_clip_tower.py", "vlm_connectors_connectors.py"} <= set(code_files(clip))
    assert "import open_clip" in builder(clip)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package on the path, with what travelling code may do and what it may not."""
    folder = tmp_path / "travelpkg"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text(
        "from typing import TYPE_CHECKING\nfrom travelpkg import b as other\nfrom travelpkg.b import x, y as z\n"
        "if TYPE_CHECKING:\n    from travelpkg.absent import T\n\n"
        "def late():\n    from travelpkg.late import far\n    return far\n\nvalue = other.x + x + z\n"
    )
    (folder / "b.py").write_text("x, y = 1, 2\n")
    (folder / "late.py").write_text("far = 1\n")
    (folder / "bad.py").write_text("import travelpkg.b\n")
    monkeypatch.syspath_prepend(tmp_path)
    code_export._source.cache_clear()
    return folder


def test_imports_become_relative(package, tmp_path, monkeypatch):
    found = code_export.files(["travelpkg.a"], ["travelpkg"], {})
    assert set(found) == {"travelpkg_a.py", "travelpkg_b.py"}
    out = tmp_path / "flat"
    out.mkdir()
    for name, text in {"__init__.py": "", **found}.items():
        (out / name).write_text(text)
    from importlib import import_module

    module = import_module("flat.travelpkg_a")
    assert module.value == 4
    with pytest.raises(ImportError, match=r"travelpkg\.late is not exported"):
        module.late()
    for name in [name for name in sys.modules if name.split(".")[0] == "flat"]:
        del sys.modules[name]


def test_an_import_that_cannot_be_rewritten_is_named(package):
    with pytest.raises(UserError, match=r"not `import travelpkg\.b`"):
        code_export.files(["travelpkg.bad"], ["travelpkg"], {})
    with pytest.raises(UserError, match=r"travelpkg\.none: no Python source"):
        code_export.files(["travelpkg.none"], ["travelpkg"], {})


def test_functions_of_one_name_do_not_meet():
    same = {
        "encoder": FactoryCall("a.b:build", {"n": 1}),
        "llm": FactoryCall("c.d:build", {"f": shutil.copy}),
        "connector": FactoryCall("a.c:build", {}),
    }
    text = builder(same)
    assert 'encoder = a_b_build(assets=folder / "encoder", n=1)' in text
    assert 'llm = c_d_build(assets=folder / "llm", f=shutil_copy)' in text
    assert "connector = a_c_build(encoder.dim, llm.dim)" in text
    assert "return VLM(encoder, connector, llm)" in text


def test_the_sampling_of_videos_is_exported():
    calls = dict.fromkeys(("encoder", "llm", "connector"), FactoryCall("a.b:build", {}))
    text = builder(calls, sampling=Sampling(fps=2.0))
    assert "from vlm_core.io.video.sources import Sampling" in text
    assert (
        "return VLM(encoder, connector, llm, sampling=Sampling(frames=None, fps=2.0, max_frames=None))"
        in text
    )
