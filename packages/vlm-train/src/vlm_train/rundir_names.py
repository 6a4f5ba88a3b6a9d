"""Names of what a run folder holds."""

SPEC, METRICS, CHECKPOINTS, MODEL = "spec.yaml", "metrics.jsonl", "checkpoints", "model"
AVERAGE, VALIDATION, LEFT_OUT = "model-average", "validation.jsonl", "left_out.jsonl"
ENVIRONMENT, LOCK, RESULTS, EVALS = "environment.json", ".lock", "results.md", "evals.jsonl"
