"""A small model that needs the engine's own packages alone, on a GPU if there is one; graphs that are plain calls."""

import torch
from lively_model import make_lively
from torch import nn

from vlm_connectors.configs import MLPConfig
from vlm_core.interfaces import Encoder
from vlm_core.model import VLM
from vlm_core.numerics.cuda_graphs import Captured
from vlm_llms.mamba.mamba import MambaLM
from vlm_llms.tokenizer.tokenizer import train_bpe
from vlm_serve.engine.batching import decode_groups, graph_steps, scheduler

TEXTS = ["what color is the shape? red", "is there a circle? yes no", "a blue triangle on a white ground"]
SIDE, PATCH, WIDTH = 32, 16, 128


class PatchEncoder(Encoder):
    """A linear map of 2×2 patches."""

    dim, image_size = 16, (SIDE, SIDE)

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, self.dim, PATCH, PATCH)

    def transform(self, image):
        pixels = torch.frombuffer(bytearray(image.resize((SIDE, SIDE)).tobytes()), dtype=torch.uint8)
        return pixels.view(SIDE, SIDE, 3).permute(2, 0, 1).float().div(255)

    def grid(self, height, width):
        return height // PATCH, width // PATCH

    def forward(self, pixel_values):
        return self.patches(pixel_values.to(self.patches.weight.dtype)).permute(0, 2, 3, 1)


def small_model(device, dtype=torch.bfloat16, layers=3):
    """A VLM whose answers depend on every token and image; of a shape that has CUDA kernels."""
    torch.manual_seed(0)
    tokenizer = train_bpe(TEXTS, 300)
    llm = MambaLM(WIDTH, layers, 304, dtype=dtype, load_tokenizer=lambda: tokenizer)
    encoder = PatchEncoder().to(dtype)
    model = VLM(encoder, MLPConfig().build(encoder.dim, llm.dim).to(dtype), llm)
    return make_lively(model).eval().to(device)


def plain_captures(monkeypatch):
    """Graphs on a CPU: what was captured is called again -> the numbers of rows that were captured."""
    captured = []

    def capture(run, pool):
        run()  # as libraries allocate memory at a first call
        outputs = run()
        captured.append(len(outputs[0]))

        def replay():
            for own, new in zip(outputs, run(), strict=True):
                own.copy_(new)

        return Captured(replay, outputs, "pool")

    monkeypatch.setattr(graph_steps, "capture", capture)
    for module in (decode_groups, scheduler):
        monkeypatch.setattr(module, "steps_are_graphs", lambda _: True)
    return captured
