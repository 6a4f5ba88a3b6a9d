"""`python -m vlm_train` is `vlm-train`: what a launcher starts."""

from vlm_train.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
