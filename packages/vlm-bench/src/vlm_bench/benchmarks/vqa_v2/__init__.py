"""VQA-v2: open questions with ten reference answers."""
