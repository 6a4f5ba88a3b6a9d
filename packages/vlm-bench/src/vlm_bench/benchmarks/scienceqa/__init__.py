"""ScienceQA: multiple choice, with the IMG subset."""
