"""The training loop of a stage: optimizer, schedule, LoRA, EMA, loss, bad samples."""
