"""Tokens and parameters of the connectors of the neighbourhood, as published or as the published layers add up."""

import pytest
import torch

from vlm_connectors.configs import LinearConfig, MLPConfig, MSCConfig
from vlm_connectors.reducer_configs import LDPv2Config, PixelShuffleConfig, ResamplerConfig
from vlm_core.interfaces import parameter_count

NEMOTRON = PixelShuffleConfig(hidden=20480, norm="rmsnorm", activation="relu2", bias=False)
CASES = {  # config, D, M, grid -> tokens, millions of parameters
    "LLaVA, CLIP-L/14 at 224 to Vicuna-7B": (LinearConfig(), 1024, 4096, 16, 256, 4.20),
    "LLaVA-1.5, CLIP-L/14 at 336 to Vicuna-7B": (MLPConfig(), 1024, 4096, 24, 576, 20.98),
    "Cobra, DINOv2 + SigLIP at 384": (MLPConfig(depth=3, hidden=8704), 2176, 2560, 27, 729, 47.79),
    "Cobra with LDPv2": (LDPv2Config(grid=14, hidden=8704), 2176, 2560, 27, 196, 41.26),
    "MobileVLM V2 1.7B": (LDPv2Config(), 1024, 2048, 24, 144, 6.32),
    "InternVL2-2B at 448": (PixelShuffleConfig(), 1024, 2048, 32, 256, 12.60),
    "Nemotron Nano V2 VL at 512": (NEMOTRON, 1280, 5120, 32, 256, 209.72),
    "Qwen-VL at 448": (ResamplerConfig(), 1664, 4096, 32, 256, 91.79),
    "ML-Mamba": (MSCConfig(), 2176, 2560, 27, 729, 184.41),
    "ML-Mamba without SwiGLU": (MSCConfig(swiglu=False), 2176, 2560, 27, 729, 145.06),
}


@pytest.mark.parametrize("name", CASES)
def test_size(name):
    config, d_in, d_out, side, tokens, millions = CASES[name]
    with torch.device("meta"):
        connector = config.build(d_in, d_out)
        assert connector(torch.zeros(1, side, side, d_in)).shape == (1, tokens, d_out)
    assert connector.num_tokens(side, side) == tokens
    assert round(parameter_count(connector) / 1e6, 2) == millions


def test_qwen_vl_publishes_0_08_billion():
    """For queries, input map, attention and two norms; the last norm and linear map it counts to the encoder."""
    with torch.device("meta"):
        connector = ResamplerConfig().build(1664, 4096)
    counted = parameter_count(connector) - parameter_count(connector.norm) - parameter_count(connector.out)
    assert round(counted / 1e9, 2) == 0.08


def test_ldpv2_hardly_spends_parameters_on_position():
    """Its position-aware part is far smaller than LDP's two inverted bottlenecks of the same width."""
    with torch.device("meta"):
        connector, m = LDPv2Config().build(1024, 2048), 2048
    bottleneck = m * 9 + 2 * m + (m * (m // 4) + m // 4 + (m // 4) * m + m) + m * m + 2 * m
    share = parameter_count(connector.position) / (2 * bottleneck)
    assert round(100 * (1 - share), 1) == 99.8
