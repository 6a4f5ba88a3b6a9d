"""What `save_pretrained` writes, and what it refuses; adapters of peft."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import vlm_core.hf  # noqa: F401  transformers' Auto classes know it from here on
from vlm_core.errors import UserError
from vlm_core.export.hf_export import export_hf
from vlm_core.io.manifest import verify_folder
from vlm_core.model_folder.assemble import load


@pytest.fixture(scope="module", autouse=True)
def calm(one_thread):
    pass


@pytest.fixture
def model(tiny_folder):
    return AutoModelForImageTextToText.from_pretrained(tiny_folder)


def test_save_pretrained_honours_what_it_is_given(model, tiny_folder, tmp_path):
    sevens = {name: torch.full_like(tensor, 7) for name, tensor in model.state_dict().items()}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").write_text("stays")
    model.save_pretrained(
        str(tmp_path / "m"), state_dict=sevens, max_shard_size="5GB", safe_serialization=True
    )
    verify_folder(tmp_path / "m")
    assert all((v == 7).all() for v in load(tmp_path / "m")[0].state_dict().values())
    model.save_pretrained(tmp_path / "m")  # again, over the other
    model.save_pretrained(tmp_path / "not", is_main_process=False)
    assert not (tmp_path / "not").exists()
    assert (tmp_path / "m" / "mine.txt").read_text() == "stays"
    verify_folder(tmp_path / "m")
    for part in ("encoder", "connector", "llm"):
        wanted, found = (load_file(f / part / "weights.safetensors") for f in (tiny_folder, tmp_path / "m"))
        assert all(torch.equal(wanted[k], found[k]) for k in wanted)
    card = (tmp_path / "m" / "README.md").read_text()
    manifest = json.loads((tmp_path / "m" / "manifest.json").read_text())
    assert manifest["files"]["llm/weights.safetensors"]["sha256"] in card


@pytest.mark.parametrize("left", ["killed", "damaged"])
def test_a_save_over_one_that_was_killed_or_damaged(model, tmp_path, left):
    """Nothing lists the files of that one, which nobody may read beside the new ones."""
    folder = tmp_path / "m"
    model.save_pretrained(folder)
    (folder / "llm" / "chat_template.jinja").write_text("of another model")
    (folder / "mine.txt").write_text("stays")
    if left == "killed":
        (folder / "manifest.json").unlink()
        (folder / ".saving").mkdir()
    else:
        (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json"):
        load(folder)
    model.save_pretrained(folder)
    load(folder)
    assert not (folder / "llm" / "chat_template.jinja").exists()
    assert not (folder / ".saving").exists()
    assert (folder / "mine.txt").read_text() == "stays"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"push_to_hub": True, "repoid": "a/b"}, "repoid"),
        ({"repo_id": "a/b"}, "repo_id"),
        ({"variant": "x"}, "variant"),
        ({"safe_serialization": False}, "safe_serialization"),
        ({"max_shard_size": "1KB"}, "max_shard_size"),
        ({"max_shard_size": "much"}, "max_shard_size"),
        ({"state_dict": {"x": torch.ones(1)}}, "weights are missing"),
    ],
)
def test_save_pretrained_refuses_by_name_and_writes_nothing(model, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        model.save_pretrained(tmp_path / "m", **options)
    assert not list(tmp_path.iterdir())


def test_a_frozen_part_stays_in_evaluation_mode(model):
    model.model.encoder.requires_grad_(False)
    model.train()
    assert model.model.llm.training
    assert not any(module.training for module in model.model.encoder.modules())


def test_peft_adapters_learn_are_saved_and_merged(model, tiny_folder, batch, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["in_proj", "x_proj", "dt_proj", "out_proj"])
    adapted = peft.get_peft_model(model, config).train()
    labels = batch["input_ids"].clone()
    adapted(**batch, labels=labels).loss.backward()
    grads = [p.grad for n, p in adapted.named_parameters() if "lora_B" in n]
    assert grads
    assert all(g is not None and g.norm() > 0 for g in grads)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        wanted = adapted.eval()(**batch).logits
        adapted.save_pretrained(tmp_path / "adapter")
        again = peft.PeftModel.from_pretrained(
            AutoModelForImageTextToText.from_pretrained(tiny_folder), tmp_path / "adapter"
        )
        assert torch.equal(again.eval()(**batch).logits, wanted)
        merged = again.merge_and_unload()
        torch.testing.assert_close(merged(**batch).logits, wanted, atol=1e-5, rtol=1e-5)
        merged.save_pretrained(tmp_path / "merged")
        other = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(other(**batch).logits, wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="holds an adapter"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter")


def test_paths_may_be_strings(tiny_folder, tmp_path):
    export_hf(str(tiny_folder), str(tmp_path / "m"))
    assert verify_folder(str(tmp_path / "m"))
