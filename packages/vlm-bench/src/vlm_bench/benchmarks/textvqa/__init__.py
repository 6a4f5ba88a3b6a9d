"""TextVQA: questions about text in images."""
