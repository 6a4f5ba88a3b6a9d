"""Loss and baselines, each against its definition."""

import torch
import torch.nn.functional as F

from vlm_core.batch import collate
from vlm_core.chat import Message, write
from vlm_core.template import TEMPLATES
from vlm_train.answers import Answer, normal, summary
from vlm_train.controls import question_only, with_other_images
from vlm_train.evaluate import spread
from vlm_train.loss import SummedLoss, target_count

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
