"""Backend `torch`: every device, no compiler."""
