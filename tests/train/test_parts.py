"""Loss, schedule, groups and baselines, each against its definition."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from vlm_core.batch import collate
from vlm_core.chat import Message, write
from vlm_core.template import TEMPLATES
from vlm_train.config import Stage
from vlm_train.evaluate import Answer, normal, question_only, spread, summary, with_other_images
from vlm_train.loss import SummedLoss, target_count
from vlm_train.optim import decays, freeze_all_but, optimizer, scale

ROWS = [("is there a circle?", "no"), ("red", "a blue triangle on a white ground"), ("what?", "yes")]


def samples(model, texts):
    pairs = ((Message("user", (q,)), Message("assistant", (a,))) for q, a in texts)
    return [write(TEMPLATES["short"], pair, model.llm.tokenizer) for pair in pairs]


def test_loss_is_the_sum_over_targets_of_each_sample_alone(tiny_model):
    """Padding, other samples and prompt tokens add nothing; the EOS counts although it may equal the pad."""
    batch = collate(samples(tiny_model, ROWS))
    total = 0.0
    for sample in samples(tiny_model, ROWS):
        ids = torch.tensor([sample.ids])
        logp = F.log_softmax(tiny_model.llm.logits(tiny_model(ids)[0]), -1)[0]
        total += -sum(logp[t - 1, sample.ids[t]] for t in range(1, len(sample)) if sample.is_target[t])
        assert sample.is_target[-1]
        assert sample.ids[-1] == tiny_model.llm.tokenizer.eos_id
    torch.testing.assert_close(SummedLoss(tiny_model)(batch), total, rtol=1e-4, atol=1e-4)
    assert target_count(batch) == sum(sum(s.is_target) for s in samples(tiny_model, ROWS))


def test_warmup_then_cosine():
    rates = [scale(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5, abs=0.01)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001
    assert [scale(s, 4, 0.0) for s in (0, 2)] == pytest.approx([1.0, 0.5])
    assert math.isfinite(scale(0, 1, 0.03))


def test_groups_carry_rates_and_spare_what_must_not_decay(tiny_model):
    stage = Stage.model_validate(
        {"name": "s", "trains": ["connector", "llm"], "data": [{"type": "llava", "path": "x"}],
         "lr": {"connector": 1e-3, "llm": 1e-5}, "weight_decay": 0.1, "batch_size": 2}
    )  # fmt: skip
    names = {p: n for n, p in tiny_model.named_parameters()}
    found = {names[p]: (g["lr"], g["weight_decay"]) for g in optimizer(tiny_model, stage).param_groups
             for p in g["params"]}  # fmt: skip
    assert not any(name.startswith("encoder") for name in found)
    layer = "llm.backbone.layers.0.mixer."
    assert found[layer + "in_proj.weight"] == (1e-5, 0.1)
    for name in ("A_log", "D", "dt_proj.bias", "conv1d.bias"):
        assert found[layer + name] == (1e-5, 0.0), name
    assert found["connector.project.weight"] == (1e-3, 0.1)
    assert found["connector.norm.weight"] == (1e-3, 0.0)
    assert not decays(tiny_model.llm.backbone.layers[0].mixer.A_log)


def test_freezing(tiny_model):
    freeze_all_but(tiny_model, ["connector"])
    assert all(p.requires_grad == n.startswith("connector") for n, p in tiny_model.named_parameters())
    assert not tiny_model.encoder.training
    assert tiny_model.connector.training


def row(name, asked, said, category=None, image=()):
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
    return {"id": name, "image": list(image), "conversations": turns, "category": category}


def test_question_only_prior_is_the_most_frequent_answer_to_that_very_question():
    train = [row(str(i), "<image>\ncolor?", c) for i, c in enumerate(["red", "red", "blue"])]
    train += [row("m", "<image>\nshape?", "circle")]
    train[-1]["conversations"] += row("", "color?", "blue")["conversations"]
    train += [row("n", "size?", "blue")]
    held_out = [
        row("a", "<image>\ncolor?", "red"),
        row("b", "<image>\nshape?", "square"),
        row("c", "new?", "blue"),
    ]
    assert [a.said for a in question_only(train, held_out)] == ["red", "circle", "blue"]


def test_summary_and_small_differences():
    answers = [
        Answer(row("a", "q", "x", "c1"), "Red.", "red"),
        Answer(row("b", "q", "x", "c2"), "a red", "red"),
    ]
    assert summary(answers) == {"questions": 2, "accuracy": {"all": 50.0, "c1": 100.0, "c2": 0.0}}
    assert normal(" No. ") == "no"


def test_shuffled_images_are_always_other_ones():
    rows = [row(str(i), "q", "a", image=[f"{i}.png"]) for i in range(7)]
    for before, after in zip(rows, with_other_images(rows), strict=True):
        assert before["image"] != after["image"]
    assert [r["id"] for r in spread(rows, 3)] == ["0", "2", "4"]
    assert spread(rows, None) == rows
