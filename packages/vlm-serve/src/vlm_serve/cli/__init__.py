"""The commands `vlm-serve` and `vlm-predict`."""
