"""`vlm-predict`: answers to the rows of a file, by a local model or a server, resumable."""
