"""The seeds of a run: their formulas never change, or a run would not resume exactly under a later version."""

from vlm_train.seeds import epoch_seed, fold_in, stage_seed, step_seed


def test_seeds_are_what_they_always_were():
    assert fold_in(0, 0, 0) == 1180730696367549
    assert fold_in(7, 1, 3) == 2206115629896041
    assert stage_seed(3, 2) == 3002
    assert epoch_seed(3002, 5) == (3002 << 20) + 5
    assert step_seed(3002, 10, rank=1, world=4) == 3002 * 1_000_003 + 41


def test_every_name_folds_in():
    seeds = [
        fold_in(seed, *names)
        for seed in (0, 1)
        for names in ((), (0,), (0, 0), (1,), ("1",), ("a", 1), ("a1",))
    ]
    assert len(set(seeds)) == len(seeds)


def test_largest_seeds_fit_a_generator():
    largest = stage_seed(2**31 - 1, 999)
    assert max(epoch_seed(largest, 2**19), step_seed(largest, 2**30, 7, 8), fold_in(largest, "x")) < 2**63
