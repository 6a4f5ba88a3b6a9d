"""Loss and baselines, each against its definition."""

import torch
import torch.nn.functional as F

from vlm_core.text.batch import collate
from vlm_core.text.render import Message, render
from vlm_core.text.template import TEMPLATES
from vlm_train.evaluation.held_out import spread
from vlm_train.evaluation.held_out_answers import Answer, normalized, summary
from vlm_train.loss import SummedLoss, target_count

ROWS = [("is there a circle?", "no"), ("red", "a blue triangle on a white ground"), ("what?", "yes")]


def samples(model, texts):
    pairs = ((Message("user", (q,)), Message("assistant", (a,))) for q, a in texts)
    return [render(TEMPLATES["short"], pair, model.llm.tokenizer) for pair in pairs]


def test_loss_is_the_sum_over_targets_of_each_sample_alone(tiny_model):
    """Padding, other samples and prompt tokens add nothing; the EOS counts although it may equal the pad."""
    batch = collate(samples(tiny_model, ROWS))
    total = 0.0
    for sample in samples(tiny_model, ROWS):
        ids = torch.tensor([sample.input_ids])
        logp = F.log_softmax(tiny_model.llm.logits(tiny_model(ids)[0]), -1)[0]
        total += -sum(logp[t - 1, sample.input_ids[t]] for t in range(1, len(sample)) if sample.loss_mask[t])
        assert sample.loss_mask[-1]
        assert sample.input_ids[-1] == tiny_model.llm.tokenizer.eos_id
    torch.testing.assert_close(SummedLoss(tiny_model)(batch), total, rtol=1e-4, atol=1e-4)
    assert target_count(batch) == sum(sum(s.loss_mask) for s in samples(tiny_model, ROWS))


def row(name, asked, said, category=None, image=()):
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
    return {"id": name, "image": list(image), "conversations": turns, "category": category}


def test_summary_and_small_differences():
    answers = [
        Answer(row("a", "q", "x", "c1"), "Red.", "red"),
        Answer(row("b", "q", "x", "c2"), "a red", "red"),
    ]
    assert summary(answers) == {"questions": 2, "accuracy": {"all": 50.0, "c1": 100.0, "c2": 0.0}}
    assert normalized(" No. ") == "no"
    assert normalized("Caf\u00e9") == normalized("CAFE\u0301.") == "caf\u00e9"
    assert normalized("\u662f\u3002") == "\u662f"
    assert summary([]) == {"questions": 0, "accuracy": {}}


def test_a_category_named_all_is_not_the_total():
    answers = [Answer(row("a", "q", "x", "all"), "red", "red"), Answer(row("b", "q", "x"), "red", "blue")]
    assert summary(answers)["accuracy"] == {"all": 50.0, "category all": 100.0}


def test_spread_takes_even_distances():
    rows = [row(str(i), "q", "a", image=[f"{i}.png"]) for i in range(7)]
    assert [r["id"] for r in spread(rows, 3)] == ["0", "2", "4"]
    assert spread(rows, None) == rows
