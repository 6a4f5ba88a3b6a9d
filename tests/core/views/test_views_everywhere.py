"""A model with tiles: saved and loaded, asked in batches, in turns, by benchmarks and through transformers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from generation_cases import LONG
from PIL import Image
from tiled_spec import TILES
from transformers import GenerationConfig as GenerationConfigOfTransformers

from vlm_core.benchmark import Question
from vlm_core.errors import BadSample, UserError
from vlm_core.evaluation.inference import BenchmarkInference
from vlm_core.export.hf_export import export_hf
from vlm_core.generation.answer import answer
from vlm_core.generation.conversation import Conversation
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io.images import load_image
from vlm_core.model_folder.assemble import build, load, save
from vlm_core.spec.spec import Spec
from vlm_core.text.render import IMAGE, Message, render
from vlm_core.views.image_views import ImageViews

SIZES = (40, 50), (90, 30), (31, 100), (20, 20), (200, 150)


@pytest.fixture(scope="module")
def tiled(tiled_folder):
    return load(tiled_folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, size in enumerate(SIZES):
        values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(len(SIZES))]


def asked(tiled, text, *paths):
    model, spec = tiled
    images = [model.image_processor(load_image(path)) for path in paths]
    counts = [model.image_tokens(image) for image in images]
    assert counts == [model.image_processor.image_tokens(load_image(path).size) for path in paths]
    parts = (*[part for _ in paths for part in (IMAGE, "\n")], text)
    return render(spec.template, [Message("user", parts)], model.llm.tokenizer, counts), images


def test_a_saved_folder_has_the_views_and_the_newline(tiled_folder, tiled):
    model, spec = tiled
    assert spec.views.unpad
    assert model.views == spec.views.rule()
    again, _ = load(tiled_folder)
    assert torch.equal(again.connector.image_newline, model.connector.image_newline)
    assert model.connector.image_newline.abs().sum() > 0


@torch.no_grad()
def test_answers_are_identical_at_batches_of_1_2_3_and_8(tiled, files):
    """Images of 2 to 5 views, two images in one question, and none."""
    model, _ = tiled
    cases = [[f] for f in files] + [[files[0], files[3]], [], [files[2], files[2]]]
    prompts = [
        asked(tiled, text, *case)
        for text, case in zip(["ab", "is", "it", "red?", "color", "c", "d", "e"], cases, strict=True)
    ]
    answers = {}
    for size in (1, 2, 3, 8):
        answers[size] = []
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            images = [image for _, inputs in batch for image in inputs]
            answers[size] += answer(model, [sample for sample, _ in batch], images, decoding=LONG)
    assert len({len(i) for _, inputs in prompts for i in inputs}) > 1
    assert answers[1] == answers[2] == answers[3] == answers[8]


def test_turns_of_a_conversation_may_each_have_images(tiled, files):
    """A second turn with two images continues from the state as if all had been asked at once."""
    model, spec = tiled
    talk = Conversation(model, spec.template)
    talk.show(files[0])
    first = "".join(talk.ask("a?", GenerationConfig(4)))
    talk.show(files[1])
    talk.show(files[2])
    second = "".join(talk.ask("is it?", GenerationConfig(4)))
    images = [model.image_processor(load_image(f)) for f in files[:3]]
    messages = [
        Message("user", (IMAGE, "\n", "a?")),
        Message("assistant", (first,)),
        Message("user", (IMAGE, "\n", IMAGE, "\n", "is it?")),
    ]
    whole = render(spec.template, messages, model.llm.tokenizer, [model.image_tokens(i) for i in images])
    assert answer(model, [whole], images, decoding=GenerationConfig(4)) == [second.strip()]


def test_the_prefix_of_an_image_is_shared_by_its_questions(tiled, files):
    questions = [Question(f"{f.name}-{text}", text, f) for f in files for text in ("a?", "is it?", "red")]
    answers = [
        {
            q.id: text
            for q, text in BenchmarkInference(*_of(tiled), batch_size=size, reuse=reuse).ask(questions)
        }
        for size, reuse in ((1, False), (6, True), (8, False))
    ]
    assert answers[0] == answers[1] == answers[2]


def test_a_benchmark_question_may_have_several_images(tiled, files):
    questions = [
        Question("one", "a?", files[0]),
        Question("two", "is it red?", files[0], more_images=(files[1],)),
        Question("two again", "color", files[0], more_images=(files[1],)),
        Question("three", "d", files[2], more_images=(files[3], files[2])),
        Question("none", "e"),
    ]
    expected = {}
    for question in questions:
        sample, images = asked(tiled, question.prompt, *question.images)
        expected[question.id] = answer(tiled[0], [sample], images, decoding=GenerationConfig(6))[0]
    for size in (1, 4):
        inference = BenchmarkInference(*_of(tiled), batch_size=size, max_new_tokens=6)
        assert {q.id: text for q, text in inference.ask(questions)} == expected


def test_an_unreadable_one_of_several_images_is_named(tiled, files, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    question = Question("q", "a?", files[0], more_images=(tmp_path / "x.png", files[1]))
    with pytest.raises(BadSample, match=r"image 2 of 3: .*x.png: not an image"):
        list(BenchmarkInference(*_of(tiled)).ask([question]))


def _of(tiled):
    model, spec = tiled
    return model, spec.template


@pytest.fixture(scope="module")
def theirs(tiled_folder):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import vlm_core.hf  # noqa: F401

    return AutoModelForImageTextToText.from_pretrained(tiled_folder), AutoProcessor.from_pretrained(
        tiled_folder
    )


def test_transformers_answers_as_we_do(tiled, theirs, files):
    model, processor = theirs
    cases = [[files[0]], [files[4], files[1]], []]
    texts = ["a?", "is it red?", "color"]
    images = [[load_image(f) for f in case] for case in cases]
    batch = processor(images=images, text=texts, padding=True)
    assert "image_order" in batch
    ids = model.generate(**batch, max_new_tokens=5, do_sample=False)[:, batch["input_ids"].shape[1] :]
    ours = [asked(tiled, text, *case) for text, case in zip(texts, cases, strict=True)]
    expected = answer(
        tiled[0],
        [s for s, _ in ours],
        [i for _, inputs in ours for i in inputs],
        decoding=GenerationConfig(5),
    )
    assert [text.strip() for text in processor.batch_decode(ids)] == expected
    config = GenerationConfigOfTransformers(
        max_new_tokens=5, do_sample=True, temperature=1e-6, num_return_sequences=2
    )
    drawn = model.generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :]
    assert [text.strip() for text in processor.batch_decode(drawn)] == [t for t in expected for _ in range(2)]


def test_transformers_reads_tiles_and_frames_in_one_batch(tiled, theirs, files):
    """A frame has one view, an image several, whose order has a newline."""
    model, processor = theirs
    frames = [Image.new("RGB", (40, 30), (90 * n, 20, 99)) for n in range(3)]
    batch = processor(images=[[load_image(files[1])], None], videos=[[frames], [frames]], text=["a?", "red?"])
    ids = model.generate(**batch, max_new_tokens=5, do_sample=False)[:, batch["input_ids"].shape[1] :]
    mine, spec = tiled
    video = ImageViews(torch.stack([mine.encoder.transform(frame) for frame in frames]))
    media = [[mine.image_processor(load_image(files[1])), video], [video]]
    prompts = []
    for shown, text in zip(media, ["a?", "red?"], strict=True):
        parts = (*[part for _ in shown for part in (IMAGE, "\n")], text)
        counts = [mine.image_tokens(one) for one in shown]
        prompts.append(render(spec.template, [Message("user", parts)], mine.llm.tokenizer, counts))
    expected = answer(mine, prompts, [one for shown in media for one in shown], decoding=GenerationConfig(5))
    assert [text.strip() for text in processor.batch_decode(ids)] == expected


def test_transformers_refuses_an_order_that_is_left_out_or_wrong(theirs, files):
    model, processor = theirs
    batch = processor(images=[load_image(files[1])], text="a?")
    with pytest.raises(UserError, match="image_order"):
        model(**{key: value for key, value in batch.items() if key != "image_order"})
    with pytest.raises(UserError, match="image_order: expected 0 to"):
        model(**{**batch, "image_order": batch["image_order"] + 10_000})


def test_the_collator_trains_the_newline(theirs, files):
    model, processor = theirs
    answered = {"from": "gpt", "value": "red"}
    turns = [{"from": "human", "value": "<image>\n<image>\na?"}, answered]
    rows = [
        {"conversations": turns, "images": [str(files[1]), str(files[2])]},
        {"conversations": [{"from": "human", "value": "a?"}, answered]},
    ]
    model(**processor.data_collator()(rows)).loss.backward()
    assert model.model.connector.image_newline.grad.abs().sum() > 0


@pytest.mark.slow
def test_an_export_with_code_answers_without_our_packages(clean_spec, tmp_path, files):
    """The exported code has the rule as plain values, and needs no pydantic."""
    spec = Spec.model_validate({**clean_spec, "views": TILES})
    ours = build(spec, weights=False)
    save(ours, spec, tmp_path / "ours")
    export_hf(tmp_path / "ours", tmp_path / "export", with_code=True)
    assert "ViewRule(grids=((1, 2)" in (tmp_path / "export/vlm_core_hf_components.py").read_text()
    assert not list((tmp_path / "export").glob("vlm_core_views_config.py"))
    script = (
        "import sys, json, torch\n"
        "sys.modules.update({name: None for name in ('vlm_core', 'vlm_connectors', 'vlm_encoders', 'pydantic')})\n"
        "from PIL import Image\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        f"folder, file = {str(tmp_path / 'export')!r}, {str(files[1])!r}\n"
        "m = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)\n"
        "p = AutoProcessor.from_pretrained(folder, trust_remote_code=True)\n"
        "b = p(images=[Image.open(file)], text='a?')\n"
        "o = m.generate(**b, max_new_tokens=4, do_sample=False)[:, b['input_ids'].shape[1]:]\n"
        "print(json.dumps(p.batch_decode(o)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    assert run.returncode == 0, run.stderr[-800:]
    sample, images = asked((ours, spec), "a?", files[1])
    expected = answer(ours, [sample], images, decoding=GenerationConfig(4))
    assert [text.strip() for text in json.loads(run.stdout.splitlines()[-1])] == expected
