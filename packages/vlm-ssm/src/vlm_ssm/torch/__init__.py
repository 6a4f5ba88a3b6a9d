"""Backend `torch`: plain torch, on every device."""
