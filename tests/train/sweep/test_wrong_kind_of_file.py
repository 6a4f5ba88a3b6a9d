"""A spec given to `sweep`, or a sweep file to the commands of specs, is one line that says so."""

from pathlib import Path

import pytest

from vlm_core.errors import SpecError
from vlm_core.spec.spec import load_spec
from vlm_train.sweep.grid import load

SPECS = Path(__file__).parents[3] / "specs"


def test_a_spec_is_no_sweep():
    with pytest.raises(
        SpecError, match=r"^\S*quickstart\.yaml:\d+: a spec of one model, expected a sweep: .*$"
    ):
        load(SPECS / "quickstart.yaml")


@pytest.mark.parametrize("name", ["scans", "tables"])
def test_a_sweep_is_no_spec(name):
    with pytest.raises(
        SpecError, match=r"^\S*\.yaml:\d+: a sweep file, expected a spec; vlm-train sweep runs it$"
    ):
        load_spec(SPECS / f"ablations/{name}.yaml")
