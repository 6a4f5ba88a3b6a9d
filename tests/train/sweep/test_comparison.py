"""What a sweep says about its seeds: intervals, paired tests, convergence, curves."""

import pytest

from vlm_train.checkpoint.run_dir import VALIDATION, RunDir
from vlm_train.sweep import comparison
from vlm_train.sweep.curves import Curve, curves
from vlm_train.sweep.jobs import Job
from vlm_train.sweep.metrics import Column, Figure
from vlm_train.sweep.rows import Row
from vlm_train.sweep.table import Cell, Line

ALL = Column("accuracy", "all", "all")
SHUFFLED = Column("control", "images shuffled", "images shuffled")


def line(name, values):
    def cell(by_seed):
        return Cell({seed: Figure(v, 100, 100) for seed, v in by_seed.items()}, len(by_seed))

    return Line(name, {"connector": 1}, list(values), {ALL: cell(values), SHUFFLED: cell(values)})


class FinishedJob(Job):
    @property
    def done(self):
        return True


def job(folder, row, seed, accuracies):
    """A finished run of 100 steps with an earlier stage that doesn't count."""
    path = folder / row / str(seed)
    path.mkdir(parents=True)
    records = [
        {"stage": 0, "name": "before", "step": 100, "loss": 1.0, "samples": [], "accuracy": {"all": 1.0}}
    ]
    every = 100 // len(accuracies)
    records += [
        {**records[0], "stage": 1, "name": "last", "step": every * i, "accuracy": {"all": value}}
        for i, value in enumerate(accuracies, 1)
    ]
    run = RunDir(path)
    run.log(*records, name=VALIDATION)
    return FinishedJob(Row(row, ()), seed, run, (), path / "log", "last")


@pytest.mark.parametrize(
    ("accuracies", "converged", "learned"),
    [
        ([30, 50, 90, 95, 96, 99, 99.5, 100, 100, 100], True, 40),
        ([30, 50, 60, 70, 80, 85, 90, 95, 98, 98], True, 80),
        ([30, 50, 60, 70, 80, 99.5, 90, 95, 98, 98], False, 60),  # it was better before
        ([30] * 10, True, 10),
    ],
)
def test_converged(accuracies, converged, learned):
    curve = Curve({10 * i: value for i, value in enumerate(accuracies, 1)})
    assert (curve.converged, curve.steps_to_learn) == (converged, learned)


def test_every_measurement_of_the_last_tenth_counts():
    """Of 20 measurements, the 19th and the 20th."""
    steps = {5 * i: 100.0 for i in range(1, 21)}
    assert not Curve({**steps, 95: 98.9}).converged
    assert Curve({**steps, 95: 99.0}).converged
    assert Curve({**steps, 90: 50.0}).converged


def test_the_comparison_of_two_rows(tmp_path):
    """Differences 2, 3 and 4: t = 3 / (1 / √3) = 5.196, p = 0.035; half width 4.303 / √3 = 2.48."""
    values = {"a": {0: 92.0, 1: 93.0, 2: 94.0}, "b": {0: 90.0, 1: 90.0, 2: 90.0}}
    lines = [line(name, by_seed) for name, by_seed in values.items()]
    jobs = [
        job(tmp_path, name, seed, [30] * 5 + [last] * 5)
        for name, by_seed in values.items()
        for seed, last in by_seed.items()
    ]
    paths = comparison.write(tmp_path, lines, jobs)
    assert [path.name for path in paths] == ["comparison.md", "curves.png"]
    assert all(path.stat().st_size > 300 for path in paths)
    text = paths[0].read_text().splitlines()
    assert "| | n | all | steps to learn | converged |" in text
    assert "| a | 3 | 93.0 ± 2.5 | 60.0 ± 0.0 | 3 of 3 |" in text
    assert "| b | 3 | 90.0 ± 0.0 | 60.0 ± 0.0 | 3 of 3 |" in text
    assert "| a | b | 3 | +3.0 ± 2.5 | 0.035 | 0.035 |" in text
    assert text.count("| row | other row | n | difference | p | p, adjusted |") == 1, (
        "no test of equal values"
    )
    assert not any("shuffled" in one for one in text), "controls are no results"


def test_one_seed_has_curves_alone(tmp_path):
    jobs = [job(tmp_path, "a", 0, [1, 2])]
    assert [p.name for p in comparison.write(tmp_path, [line("a", {0: 2.0})], jobs)] == ["curves.png"]


def test_runs_without_accuracies_have_no_curves(tmp_path):
    without = FinishedJob(Row("a", ()), 0, RunDir(tmp_path / "a"), (), tmp_path / "log", "last")
    without.folder.log({"stage": 0, "name": "last", "step": 9, "loss": 1.0, "samples": []}, name=VALIDATION)
    assert curves([without]) == {}
    lines = [line("a", {0: 1.0, 1: 2.0}), line("b", {0: 3.0, 1: 3.0})]
    (written,) = comparison.write(tmp_path, lines, [without])
    assert "converged |" not in written.read_text()
