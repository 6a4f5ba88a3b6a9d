"""Model folders: assembling, saving, verifying and loading; weights in safetensors files."""
