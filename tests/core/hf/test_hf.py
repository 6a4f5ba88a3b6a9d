"""transformers' Auto classes, pipeline and generate on a model folder: the same ids, logits and answers as ours."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, pipeline

import vlm_core.hf
from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io.manifest import verify_folder
from vlm_core.model_folder.assemble import load
from vlm_core.text.render import IMAGE, Message, render
from vlm_core.text.template import TEMPLATES

QUESTIONS = ["is there a circle?", "red", "what color is the shape on the white ground?"]
STEPS = 6


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8))


PICTURES = [picture(i) for i in range(3)]


@pytest.fixture(scope="module", autouse=True)
def calm(one_thread):
    pass


@pytest.fixture(scope="module")
def ours(tiny_folder):
    return load(tiny_folder)


def prompt(ours, parts, images=()):
    """Our own way to ids and pixels."""
    model, spec = ours
    pixels = [model.encoder.transform(image) for image in images]
    counts = [model.image_tokens(p) for p in pixels]
    return render(spec.template, [Message("user", tuple(parts))], model.llm.tokenizer, counts), pixels


def greedy(ours, samples, pixels):
    """Our ids, None behind the end."""
    session = Session(ours[0])
    session.prefill(samples, pixels)
    return list(zip(*session.tokens(GenerationConfig(STEPS)), strict=True))


def said(model, inputs, **kwargs):
    out = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False, **kwargs)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


def test_a_processor_without_its_file_is_told(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    for change in (lambda file: file.write_text("{"), lambda file: file.unlink()):
        change(folder / "processor_config.json")
        with pytest.raises(
            UserError, match=r"processor_config\.json: (1 bytes instead of|missing, but listed)"
        ):
            vlm_core.hf.VLMProcessor.from_pretrained(folder)


def test_a_processor_that_was_saved_alone_without_its_file_is_told(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text("{")
    with pytest.raises(UserError, match=r"processor_config\.json: not JSON"):
        vlm_core.hf.VLMProcessor.from_pretrained(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(UserError, match=r"processor_config\.json: cannot read this file: no such file"):
        vlm_core.hf.VLMProcessor.from_pretrained(tmp_path)


def test_the_folder_is_known_by_its_files(tiny_folder, model, processor, ours):
    config = AutoConfig.from_pretrained(tiny_folder)
    assert type(model) is vlm_core.hf.VLMForConditionalGeneration
    assert type(processor) is vlm_core.hf.VLMProcessor
    assert type(config) is vlm_core.hf.VLMConfig
    llm = ours[0].llm
    assert (config.hidden_size, config.vocab_size, config.token_count) == (
        16,
        llm.vocab_size,
        len(llm.tokenizer),
    )
    assert config.image_tokens == 4


def test_ids_are_those_of_our_template(processor, ours):
    """Images first or in place, and what a user types is text."""
    for texts in ("is there a circle?", "<image> <|endoftext|>", ""):
        sample, pixels = prompt(ours, (IMAGE, "\n", texts), PICTURES[:1])
        found = processor(images=PICTURES[0], text=texts)
        assert found["input_ids"].tolist() == [sample.input_ids]
        assert found["image_mask"].tolist() == [sample.image_mask]
        assert torch.equal(found["pixel_values"], torch.stack(pixels))
    assert set(processor(text="red")) == {"input_ids", "attention_mask"}


@torch.no_grad()
def test_logits_equal_ours(model, processor, ours):
    sample, pixels = prompt(ours, (IMAGE, "\n", QUESTIONS[0]), PICTURES[:1])
    session = Session(ours[0])
    session.prefill([sample], pixels)
    inputs = processor(images=PICTURES[0], text=QUESTIONS[0])
    assert torch.equal(model(**inputs, logits_to_keep=1).logits[:, -1], session.next_logits)
    torch.testing.assert_close(model(**inputs).logits[:, -1], session.next_logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}], ids=["state", "recomputed"])
def test_greedy_answers_equal_ours(model, processor, ours, options):
    """A batch of different lengths with a picture each; then a row alone."""
    asked = [prompt(ours, (IMAGE, "\n", q), [p]) for q, p in zip(QUESTIONS, PICTURES, strict=True)]
    expected = greedy(ours, [s for s, _ in asked], [p for _, pixels in asked for p in pixels])
    inputs = processor(images=PICTURES, text=QUESTIONS)
    assert not inputs["attention_mask"].all()
    for found, row in zip(said(model, inputs, **options), expected, strict=True):
        row = [i for i in row if i is not None]
        assert found[: len(row)] == row
    alone = processor(images=PICTURES[0], text=QUESTIONS[0])
    assert said(model, alone, **options)[0] == [i for i in expected[0] if i is not None]


def test_rows_without_pictures_and_with_two(model, processor, ours):
    texts, images = ["red", "which?"], [[], [PICTURES[0], PICTURES[1]]]
    inputs = processor(images=images, text=texts)
    asked = [prompt(ours, ("red",)), prompt(ours, (IMAGE, "\n", IMAGE, "\n", "which?"), PICTURES[:2])]
    expected = greedy(ours, [s for s, _ in asked], [p for _, pixels in asked for p in pixels])
    assert said(model, inputs) == [list(row) for row in expected]


def test_repeated_rows_keep_their_own_pictures(model, processor):
    inputs = processor(images=[[PICTURES[0], PICTURES[1]], [PICTURES[2]]], text=["a", "b"])
    inputs = {key: value.clone() for key, value in inputs.items()}
    pixels = inputs["pixel_values"]
    ids, found = model._expand_inputs_for_generation(expand_size=2, **inputs)
    assert len(ids) == 4
    assert torch.equal(found["pixel_values"], pixels[[0, 1, 0, 1, 2, 2]])


def test_a_state_is_continued(model, processor):
    inputs = processor(images=PICTURES[0], text=QUESTIONS[0])
    first = model.generate(**inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
    more = model.generate(first.sequences, cache=first.cache, max_new_tokens=STEPS - 2, do_sample=False)
    assert more[0, inputs["input_ids"].shape[1] :].tolist() == said(model, inputs)[0]


def test_pipeline(tiny_folder, tmp_path, model, processor):
    PICTURES[0].save(tmp_path / "p.png")
    ask = pipeline("image-text-to-text", model=str(tiny_folder))
    expected = processor.batch_decode(said(model, processor(images=PICTURES[0], text=QUESTIONS[0])))[0]
    options = {"max_new_tokens": STEPS, "return_full_text": False}
    for image in ({"image": PICTURES[0]}, {"path": str(tmp_path / "p.png")}):
        content = [{"type": "image", **image}, {"type": "text", "text": QUESTIONS[0]}]
        (found,) = ask(text=[{"role": "user", "content": content}], **options)
        assert found["generated_text"] == expected
    assert ask(images=PICTURES[0], text=QUESTIONS[0], **options)[0]["generated_text"] == expected


def test_loss_is_that_of_the_next_token(model, processor):
    talk = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "yes"}]
    inputs = processor.apply_chat_template(talk, tokenize=True, return_dict=True)
    labels = inputs["input_ids"].clone()
    labels[:, :-2] = -100
    out = model(**inputs, labels=labels)
    p = out.logits[0, -3:-1].log_softmax(-1)
    torch.testing.assert_close(out.loss, -p.gather(1, labels[0, -2:, None]).mean())
    out.loss.backward()
    model.zero_grad()


def test_saved_again(model, tiny_folder, tmp_path, processor):
    changed = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    with torch.no_grad():
        changed.get_input_embeddings().weight.mul_(2)
    changed.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    verify_folder(tmp_path / "m")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "m")
    assert torch.equal(again.get_input_embeddings().weight, 2 * model.get_input_embeddings().weight)
    assert load(tmp_path / "m")[1] == load(tiny_folder)[1]


def test_dtype_and_device(tiny_folder):
    take = AutoModelForImageTextToText.from_pretrained
    rough, report = take(tiny_folder, dtype="bfloat16", device_map={"": "cpu"}, output_loading_info=True)
    assert rough.get_input_embeddings().weight.dtype == torch.bfloat16
    assert rough.model.llm.backbone.layers[0].mixer.A_log.dtype == torch.float32
    assert not any(report.values())
    assert take(tiny_folder, device_map="cpu").device.type == "cpu"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"quantization_config": {"bits": 4}}, "does not know quantization_config"),
        ({"device_map": "warp"}, "device_map 'warp' can't be used"),
        ({"device_map": {"model": 0, "x": 1}}, "goes to one device"),
        ({"dtype": "int3"}, "dtype 'int3': expected"),
    ],
)
def test_what_would_change_the_model_is_refused(tiny_folder, kwargs, message):
    with pytest.raises(UserError, match=message):
        vlm_core.hf.VLMForConditionalGeneration.from_pretrained(tiny_folder, **kwargs)


def test_damage_is_found(tiny_folder, tmp_path):
    import shutil

    shutil.copytree(tiny_folder, tmp_path / "m")
    file = tmp_path / "m" / "llm" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"weights\.safetensors: its sha256 differs"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "m")


USER = [{"role": "user", "content": "red"}]


@pytest.mark.parametrize(
    ("talk", "options", "message"),
    [
        (USER, {"tokenize": False}, "tokenize=True"),
        (USER, {"add_generation_prompt": False}, "add_generation_prompt=True"),
        (
            [*USER, {"role": "assistant", "content": "no"}],
            {},
            "ends with an answer: set add_generation_prompt=False",
        ),
        (USER, {"continue_final_message": True}, "continue_final_message are not supported"),
        (USER, {"return_tensors": "np"}, "expected 'pt'"),
        ([{"role": "system", "content": "be kind"}], {}, "only a system turn"),
        ([*USER, {"role": "system", "content": "be kind"}], {}, "role 'system': expected"),
        (
            [{"role": "system", "content": [{"type": "image", "path": "x"}]}, *USER],
            {},
            "only text|no such file",
        ),
        ([{"role": "user", "content": [{"type": "audio"}]}], {}, "type 'audio': expected text, image or"),
        ([{"role": "user", "content": [{"type": "video"}]}], {}, "a video must be a path"),
        ([{"role": "user", "content": [{"type": "image"}]}], {}, "an image must be"),
        ([{"role": "user", "content": [{"type": "image", "path": "none.png"}]}], {}, "no such file"),
    ],
)
def test_conversations_that_cannot_be_written(processor, talk, options, message):
    with pytest.raises(UserError, match=message):
        processor.apply_chat_template(talk, **{"tokenize": True, "add_generation_prompt": True, **options})


def test_other_mistakes(model, processor):
    with pytest.raises(UserError, match="2 texts but images for 3"):
        processor(images=PICTURES, text=["a", "b"])
    with pytest.raises(UserError, match="go together"):
        model(processor(text="a")["input_ids"], pixel_values=torch.rand(1, 3, 32, 32))
    with pytest.raises(UserError, match="use num_beams=1"):
        model.generate(**processor(text="a"), num_beams=2, max_new_tokens=4)
    with pytest.raises(UserError, match=r"from_pretrained\(folder\)"):
        vlm_core.hf.VLMForConditionalGeneration(vlm_core.hf.VLMConfig())


def test_the_card_tells_spec_versions_and_hashes(tiny_folder):
    card, manifest = (
        (tiny_folder / "README.md").read_text(),
        json.loads((tiny_folder / "manifest.json").read_text()),
    )
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n---\n")
    assert (tiny_folder / "spec.yaml").read_text().rstrip() in card
    assert all(fact["sha256"] in card for fact in manifest["files"].values())
    assert all(f"| {name} | {version} |" in card for name, version in manifest["versions"].items())
    assert "README.md" not in manifest["files"], "people edit it"


def test_a_system_turn_takes_the_place_of_the_templates_text(processor, monkeypatch):
    talk = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    with pytest.raises(UserError, match="the template has no place for it"):
        processor.apply_chat_template(talk, tokenize=True, add_generation_prompt=True)
    monkeypatch.setattr(processor, "template", TEMPLATES["llava-v1"])
    own, plain = (
        processor.decode(
            processor.apply_chat_template(t, tokenize=True, add_generation_prompt=True)["input_ids"][0]
        )
        for t in (talk, talk[1:])
    )
    assert ("be kind" in own, "curious human" in own) == (True, False)
    assert ("be kind" in plain, "curious human" in plain) == (False, True)
