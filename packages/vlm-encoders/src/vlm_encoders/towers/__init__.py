"""Vision towers of timm, open_clip and transformers, and fused towers."""
