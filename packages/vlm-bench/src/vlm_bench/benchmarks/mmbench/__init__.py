"""MMBench: multiple choice with rotated options (CircularEval)."""
