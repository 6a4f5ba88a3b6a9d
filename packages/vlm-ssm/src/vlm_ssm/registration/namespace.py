"""The namespace of this package's operations in `torch.library`.

Operations are registered per process by name. Code exported with a model has a copy of this package, so the export
gives each copy its own namespace (`vlm_core.export.hf_export`).
"""

NAMESPACE = "vlm_ssm"
