"""An unknown subcommand is named with those of `--help` and the nearest one."""

import pytest

from vlm_bench.cli.main import main as bench
from vlm_train.cli.main import main as train


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (
            train,
            ["swep"],
            "'swep'; possible: check, init, plan, preview, report, run, sweep; did you mean 'sweep'?",
        ),
        (train, ["it's.yaml"], 'unknown command "it\'s.yaml"; possible: check, init'),
        (bench, ["score", "pop"], "unknown benchmark 'pop'; possible: "),
    ],
)
def test_the_commands_are_listed(main, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["vlm", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
