"""How large the scan of a vss-l2 or vss-mlp connector becomes beside its skip, in the checkpoints of a run.

    vlm-train run specs/grid.yaml --set train.output=runs/scales --set train.checkpoint_every=100 \
        --set train.keep_checkpoints=20 --set train.stages.0.lr=4e-3
    uv run python -m perf.train.connector_scales runs/scales

Both are root mean squares over the patches of the first 64 training images: the inputs of the norm of Eq. 5 and 6.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from vlm_connectors.connectors import VSSL2, VSSMLP
from vlm_core.errors import UserError
from vlm_core.model import VLM
from vlm_core.model_folder import assemble
from vlm_core.spec.spec import load_spec
from vlm_core.views.image_views import view_values
from vlm_train.checkpoint import checkpoint
from vlm_train.checkpoint.prepare_run_dir import with_saved_tokenizer
from vlm_train.checkpoint.run_dir import CHECKPOINTS, SPEC, RunDir
from vlm_train.config.section import train_section
from vlm_train.data.dataset import sample_processor
from vlm_train.data.mixture import joined

IMAGES = 64


def rms(x: Tensor) -> float:
    return x.float().square().mean().sqrt().item()


@torch.no_grad()
def scales(model: VLM, pixel_values: Tensor) -> tuple[float, float, float]:
    """Root mean squares of the scan, of the skip, and of the image embeddings."""
    connector = model.connector
    if not isinstance(connector, VSSL2 | VSSMLP):
        raise UserError("this run's connector is neither vss-l2 nor vss-mlp")
    features = model.encode(pixel_values)
    skip = connector.project(features) if isinstance(connector, VSSL2) else features
    scanned = connector.vss(nn.functional.gelu(skip) if isinstance(connector, VSSL2) else skip)
    return rms(scanned), rms(skip), rms(connector(features))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    folder = parser.parse_args().run
    spec, document = load_spec(folder / SPEC)
    train = train_section(spec, document)
    model = assemble.build(with_saved_tokenizer(RunDir(folder), spec), seed=train.seed)
    reader = sample_processor(model, spec, train, train.stages[-1])
    rows = islice(joined(train.stages[-1].data), IMAGES)
    images = [image for row in rows for image in reader.images(row)]
    pixel_values = torch.stack([view for image in images for view in view_values(image)])
    print(f"{'step':>6} {'scan':>10} {'skip':>8} {'scan / skip':>12} {'embeddings':>11}")
    for path in [None, *sorted(checkpoint.checkpoints_in(folder / CHECKPOINTS))]:
        step = 0
        if path:
            step = checkpoint.position(path).step
            checkpoint.restore(path, model)
        scanned, skip, embeds = scales(model, pixel_values)
        print(f"{step:6} {scanned:10.3f} {skip:8.3f} {scanned / skip:12.3f} {embeds:11.3f}")


if __name__ == "__main__":
    main()
