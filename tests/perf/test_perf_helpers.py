"""What the measurements compute beside their timings."""

import json

import pytest
from perf.distributed.tiny_runs import same_metrics, same_order, same_weights
from perf.lib.gpu_models import pieces
from perf.peers.mamba_ssm_build import trimmed

SOURCE = """
    if (ITYPE == at::ScalarType::Half) {
        using input_t = at::Half;
        __VA_ARGS__();
    } else if (ITYPE == at::ScalarType::BFloat16) {
        using input_t = at::BFloat16;
        __VA_ARGS__();
    } else if (ITYPE == at::ScalarType::Float)  {
        using input_t = float;
        __VA_ARGS__();
    } else {
        AT_ERROR();
    }
    BOOL_SWITCH(params.seqlen % 4 == 0, kIsEvenLen, [&] {
    BOOL_SWITCH(params.is_variable_B, kIsVariableB, [&] {
template void scan<at::BFloat16, float>(P &p);
template void scan<at::BFloat16, complex_t>(P &p);
template void scan<at::Half, float>(P &p);
template void scan<float, float>(P &p);
"""


def test_the_build_of_mamba_ssm_keeps_what_is_measured():
    text = trimmed(SOURCE)
    assert text.count("using input_t") == 1
    assert "if (ITYPE == at::ScalarType::BFloat16) {" in text
    assert "} else {\n        AT_ERROR();" in text
    assert text.count("BOOL_SWITCH(") == 1
    assert "ALWAYS(params.is_variable_B, kIsVariableB" in text
    assert [line for line in text.splitlines() if line.startswith("template")] == [
        "template void scan<at::BFloat16, float>(P &p);"
    ]


@pytest.mark.parametrize(("chunk", "batch", "length"), [(None, 2, 5), (4, 1, 9), (4, 2, 9), (4, 8, 3)])
def test_pieces_are_the_whole_input(chunk, batch, length):
    model = type("Model", (), {"prefill_chunk": chunk})()
    parts = list(pieces(model, batch, length))
    assert [i for part in parts for i in range(length)[part]] == list(range(length))
    assert all((part.stop - part.start) * batch <= max(chunk or length * batch, batch) for part in parts)


def test_runs_that_differ_are_told_apart(tmp_path):
    keys = ("stage", "step", "loss", "grad_norm", "targets", "lr", "skipped", "padding")
    for name, loss, targets in (("a", 1.0, 5), ("b", 1.0, 5), ("c", 2.0, 5), ("d", 1.0, 6)):
        folder = tmp_path / name / "model"
        folder.mkdir(parents=True)
        (folder / "w.safetensors").write_bytes(str(loss).encode())
        row = dict.fromkeys(keys, 0) | {"loss": loss, "targets": targets}
        (tmp_path / name / "metrics.jsonl").write_text(f"{json.dumps(row)}\n")
    a, b, c, d, none = (tmp_path / name for name in ("a", "b", "c", "d", "none"))
    assert [same_weights(a, x) for x in (b, c)] == [True, False]
    assert [same_metrics(a, x) for x in (b, c, d)] == [True, False, False]
    assert [same_order(a, x) for x in (b, c, d)] == [True, True, False]
    assert not same_weights(none, none)
