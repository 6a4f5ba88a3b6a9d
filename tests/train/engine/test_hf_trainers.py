"""transformers' Trainer and trl's SFTTrainer on the exported model: what vlm-train makes of the same rows."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

import vlm_core.hf
from vlm_core.errors import UserError
from vlm_core.io.images import load_image
from vlm_core.io.manifest import verify_folder
from vlm_core.model_folder.assemble import build, load, save
from vlm_core.spec.spec import load_spec
from vlm_core.text.render import render
from vlm_train.data.dataset import messages as llava_messages
from vlm_train.run import start

# trl sets arguments under names that transformers has renamed, and reads them so
RENAMED = "ignore:.*(gradient|activation)_checkpointing.*:FutureWarning"
STEPS, RATE = 4, 3e-3
PARTS = ("encoder", "connector", "llm")


@pytest.fixture(scope="module", autouse=True)
def calm(one_thread):
    pass


@pytest.fixture
def ours(run_spec, tmp_path):
    """Weights before and after vlm-train: every step has all rows, so their order is nothing."""
    stage = {
        "name": "s",
        "trainable": ["connector", "llm"],
        "steps": STEPS,
        "lr": RATE,
        "batch_size": 18,
        "micro_batch_size": 9,
        "weight_decay": 0.0,
        "warmup_ratio": 0.0,
        "schedule": "constant",
        "data": [{"type": "llava", "path": str(tmp_path / "data.json")}],
    }
    path = run_spec(held_out_qa=None, stages=[stage])
    spec, origin = load_spec(path)
    save(build(spec), spec, str(tmp_path / "start"))
    folder, _ = start(spec, origin)
    return str(tmp_path / "start"), folder.path / "model"


@pytest.fixture
def rows(run_spec, tmp_path):
    rows = json.loads((tmp_path / "data.json").read_text()) if (tmp_path / "data.json").exists() else []
    for row in rows:
        if "image" in row:
            row["image"] = str(tmp_path / row["image"])
    return rows


def arguments(folder, **changes):
    given = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "learning_rate": RATE,
        "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": 3,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "adam_beta2": 0.999,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "report_to": [],
        "use_cpu": True,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": 2,
        **changes,
    }
    return given


def frozen(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.model.encoder.requires_grad_(False)
    return model


def compare(theirs, ours):
    for part in PARTS:
        wanted, found = (load_file(f / part / "weights.safetensors") for f in (ours, theirs))
        assert wanted.keys() == found.keys()
        for name, tensor in wanted.items():
            torch.testing.assert_close(
                found[name], tensor, atol=5e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("with_processor", [True, False])
def test_trainer_equals_vlm_train_saves_and_resumes(ours, rows, tmp_path, with_processor):
    start_folder, trained = ours
    processor = AutoProcessor.from_pretrained(start_folder)
    options = {"data_collator": processor.data_collator(), "train_dataset": rows}
    if with_processor:
        options["processing_class"] = processor
    trainer = Trainer(frozen(start_folder), TrainingArguments(**arguments(tmp_path / "hf")), **options)
    trainer.train()
    trainer.save_model()
    compare(tmp_path / "hf", trained)
    verify_folder(tmp_path / "hf")
    assert load(tmp_path / "hf")[1] == load(start_folder)[1]

    again = Trainer(frozen(start_folder), TrainingArguments(**arguments(tmp_path / "hf")), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "hf" / "checkpoint-2"))
    again.save_model(tmp_path / "resumed")
    compare(tmp_path / "resumed", trained)
    if with_processor:
        AutoProcessor.from_pretrained(tmp_path / "resumed")


def test_trainer_goes_back_to_the_best_checkpoint(ours, rows, tmp_path):
    start_folder, _ = ours
    processor = AutoProcessor.from_pretrained(start_folder)
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_total_limit": 1}
    trainer = Trainer(
        frozen(start_folder),
        TrainingArguments(**arguments(tmp_path / "hf", learning_rate=1e-1, **best)),
        train_dataset=rows,
        eval_dataset=rows[:6],
        data_collator=processor.data_collator(),
    )
    trainer.train()
    kept = trainer.state.best_model_checkpoint
    trainer.save_model(tmp_path / "best")
    compare(tmp_path / "best", Path(kept))


def messages(row):
    text = row["conversations"][0]["value"].removeprefix("<image>\n")
    turns = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": row["conversations"][1]["value"]},
    ]
    return {"messages": turns, "images": [row["image"]] if "image" in row else []}


@pytest.mark.filterwarnings(RENAMED)
def test_sft_trainer_equals_vlm_train_and_resumes(ours, rows, tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    start_folder, trained = ours
    processor = AutoProcessor.from_pretrained(start_folder)
    data = datasets.Dataset.from_list([messages(row) for row in rows])
    options = {
        "train_dataset": data,
        "processing_class": processor,
        "data_collator": processor.data_collator(),
    }
    config = trl.SFTConfig(**arguments(tmp_path / "sft", bf16=False))
    trainer = trl.SFTTrainer(frozen(start_folder), config, **options)
    trainer.train()
    trainer.save_model()
    compare(tmp_path / "sft", trained)
    again = trl.SFTTrainer(frozen(start_folder), config, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "sft" / "checkpoint-2"))
    again.save_model(tmp_path / "resumed")
    compare(tmp_path / "resumed", trained)


@pytest.mark.filterwarnings(RENAMED)
def test_sft_trainers_own_collator_is_refused(ours, rows):
    """It would train on image positions and on the questions."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([messages(row) for row in rows])
    with pytest.raises(AttributeError, match=r"data_collator=processor\.data_collator\(\)"):
        trl.SFTTrainer(
            frozen(ours[0]),
            trl.SFTConfig(report_to=[], use_cpu=True, bf16=False),
            train_dataset=data,
            processing_class=AutoProcessor.from_pretrained(ours[0]),
        )


def test_columns_taken_out_are_named(ours, rows, tmp_path):
    processor = AutoProcessor.from_pretrained(ours[0])
    trainer = Trainer(
        frozen(ours[0]),
        TrainingArguments(**arguments(tmp_path / "hf", remove_unused_columns=True)),
        train_dataset=rows,
        data_collator=processor.data_collator(),
    )
    with pytest.raises(UserError, match="set remove_unused_columns=False"):
        trainer.train()


def test_bf16_and_recomputation_keep_the_recurrence_in_fp32(ours, rows, tmp_path):
    processor = AutoProcessor.from_pretrained(ours[0])
    trainer = Trainer(
        frozen(ours[0]),
        TrainingArguments(**arguments(tmp_path / "hf", bf16=True, activation_checkpointing=True)),
        train_dataset=rows,
        data_collator=processor.data_collator(),
    )
    trainer.train()
    mixer = trainer.model.model.llm.backbone.layers[0].mixer
    assert {mixer.A_log.dtype, mixer.D.dtype, mixer.dt_proj.bias.dtype} == {torch.float32}
    assert not trainer.model.model.encoder.training
    rounded = trainer.model.to(torch.bfloat16)
    assert rounded.model.llm.backbone.layers[0].mixer.A_log.dtype == torch.float32


def test_rows_become_the_samples_of_vlm_train(ours, rows):
    processor = vlm_core.hf.VLMProcessor.from_pretrained(ours[0])
    model, spec = load(ours[0])
    batch = processor.data_collator()(rows[:3])
    other = processor.data_collator()([messages(row) for row in rows[:3]])
    for key in ("input_ids", "attention_mask", "labels", "image_mask", "pixel_values"):
        assert torch.equal(batch[key], other[key])
    for i, row in enumerate(rows[:3]):
        images = [row["image"]] if "image" in row else []
        counts = [model.image_tokens(processor.model.encoder.transform(load_image(p))) for p in images]
        sample = render(spec.template, llava_messages({**row, "image": images}), model.llm.tokenizer, counts)
        assert batch["input_ids"][i, : len(sample)].tolist() == sample.input_ids
        wanted = [i if t else -100 for i, t in zip(sample.input_ids, sample.loss_mask, strict=True)]
        assert batch["labels"][i, : len(sample)].tolist() == wanted
        assert (batch["labels"][i, len(sample) :] == -100).all()
