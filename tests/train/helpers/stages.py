"""A training stage that tests change field by field."""

from vlm_train.config.train import Stage


def stage(**changes):
    values = {
        "name": "s",
        "trainable": ["connector", "llm"],
        "data": [{"type": "llava", "path": "x"}],
        "lr": {"connector": 1e-3, "llm": 1e-5},
        "weight_decay": 0.1,
        "batch_size": 2,
    }
    return Stage.model_validate({**values, **changes})
