"""Other models' published figures stand below the paper's, each with its source; what is unknown stays empty."""

import json

import pytest

from vlm_bench.report.html import to_html
from vlm_bench.report.leaderboard import published_rows, to_json, to_markdown
from vlm_bench.report.published.paper_table import PAPER, ROWS, TITLES
from vlm_bench.report.published.peers import PEERS, sources


def test_rows_of_the_paper_then_of_the_peers() -> None:
    rows = published_rows([*TITLES])
    assert list(rows) == [*ROWS, *PEERS]
    assert rows[PAPER] == ["76.6", "56.2", "65.4", "48.9", "84.4", "1369.6", "57.0", "32.6"]
    assert rows["Cobra-3.5B"] == ["77.8", "62.3", "–", "58.2≠", "88.4", "–", "–", "–"]
    assert rows["ML-Mamba-2.7B"] == ["75.26≠", "60.68", "–", "52.2", "88.3", "–", "–", "–"]
    assert rows["mmMamba-linear-2.7B"] == ["–", "57.4", "79.2", "47.7", "85.2", "1303.5", "57.2", "31.1"]
    assert rows["Zamba2-VL-2.7B"] == ["79.6≠", "–", "–", "77.4≠", "–", "–", "–", "–"]


def test_a_benchmark_that_only_peers_have() -> None:
    rows = published_rows(["vizwiz", "pope"])
    assert rows["Cobra-8B"] == ["56.2", "87.6"]
    assert rows[PAPER] == ["–", "84.4"]


@pytest.mark.parametrize("model", PEERS)
def test_each_row_has_a_source_and_names_only_its_own_figures(model: str) -> None:
    peer = PEERS[model]
    assert peer.source
    assert peer.protocol
    assert set(peer.differs) <= set(peer.figures) & set(TITLES)
    assert all(0 < value < 100 for name, value in peer.figures.items() if name != "mme")
    (line,) = (line for line in sources() if model in line)
    assert peer.source in line


def test_every_form_has_rows_and_sources() -> None:
    for form in (to_markdown([]), to_html([])):
        for text in (
            "Cobra-3.5B",
            "58.2≠",
            "arXiv 2403.14520",
            "model card of Zyphra/Zamba2-VL-1.2B",
            "≠ another",
        ):
            assert text in form
    peers = json.loads(to_json([]))["peers"]
    assert peers["mmMamba-hybrid-2.7B"]["figures"]["mmmu_val"] == 32.3
    assert peers["ML-Mamba-2.7B"]["differs"] == ["vqa-v2"]
