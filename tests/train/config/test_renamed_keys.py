"""A key of an earlier version is an error that gives its new name, wherever it stands."""

import pytest

from vlm_core.errors import UserError
from vlm_core.spec.spec import load_spec
from vlm_train.config.section import train_section

RENAMED = {
    "train.workers=2": "num_workers",
    "train.evaluation=null": "held_out_qa",
    "train.evals=null": "benchmarks",
    "train.benchmarks={benchmarks: []}": "tasks",
    "train.stages.0.trains=[llm]": "trainable",
    "train.stages.0.weights=[1]": "mix_weights",
    "train.stages.0.counts=[1]": "samples_per_epoch",
    "train.stages.0.warmup=0.1": "warmup_ratio",
    "train.stages.0.lr_floor=0.1": "min_lr_ratio",
    "train.stages.0.cooldown=0.1": "decay_ratio",
    "train.stages.0.clip_norm=1.0": "max_grad_norm",
    "encoder.fit=pad": "resize_mode",
}


@pytest.mark.parametrize("setting", RENAMED)
def test_an_old_key_gives_its_new_name(run_spec, setting):
    with pytest.raises(UserError, match=rf"this key is now called {RENAMED[setting]}\b"):
        train_section(*load_spec(run_spec(), [setting]))
