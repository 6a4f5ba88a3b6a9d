"""A folder with its code in an environment that holds transformers, torch and Pillow, and nothing of ours."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from processes import succeed
from uv import find_uv_bin

from vlm_core.export.hf_export import export_hf
from vlm_core.model_folder.assemble import build, save
from vlm_core.spec.spec import Spec

pytestmark = pytest.mark.slow

QUESTIONS = ["what?", "is there a circle in the picture?"]
THERE = """
import importlib.util, json, sys
assert not any(importlib.util.find_spec(n) for n in ("vlm_core", "vlm_llms", "vlm_encoders", "pluggy", "timm", "numba"))
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

folder, picture, questions = sys.argv[1], Image.open(sys.argv[2]), json.loads(sys.argv[3])
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(images=[picture, picture], text=questions)
with torch.no_grad():
    logits = model(**inputs).logits
ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
ask = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
said = ask(images=picture, text=questions[0], max_new_tokens=6, return_full_text=False)[0]["generated_text"]
torch.save({"logits": logits, "ids": ids, "said": said}, sys.argv[4])
"""


def test_in_a_clean_environment(clean_spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec.model_validate(clean_spec)
    save(build(spec, weights=False), spec, tmp_path / "model")
    export_hf(tmp_path / "model", tmp_path / "out", with_code=True)
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "p.png")

    uv, python = find_uv_bin(), tmp_path / "env" / "bin" / "python"
    succeed(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "env")
    succeed(uv, "pip", "install", "--quiet", "--python", python, "transformers>=5.24,<6", "torch<3", "pillow")
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    asked, result = json.dumps(QUESTIONS), tmp_path / "result.pt"
    succeed(python, "-c", THERE, tmp_path / "out", tmp_path / "p.png", asked, result, env=home)
    shutil.rmtree(tmp_path / "env")
    found = torch.load(result, weights_only=True)

    import vlm_core.hf

    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")
    model = vlm_core.hf.VLMForConditionalGeneration.from_pretrained(tmp_path / "model")
    picture = Image.open(tmp_path / "p.png")
    inputs = vlm_core.hf.VLMProcessor.from_pretrained(tmp_path / "model")(
        images=[picture] * 2, text=QUESTIONS
    )
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], model(**inputs).logits, atol=1e-6, rtol=1e-6)
    assert torch.equal(found["ids"], model.generate(**inputs, max_new_tokens=6, do_sample=False))
    assert found["said"]
