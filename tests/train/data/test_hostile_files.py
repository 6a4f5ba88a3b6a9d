"""Hostile data files have one documented outcome each, within seconds and little memory."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

VALUES = "more than 250000 values in one row"
HEADERS = "1 rows, 0 good, truncated: FILE: damaged near byte 1024: headers of one member with more than 65536 bytes"
OUTCOMES = {
    "lists.json": f"UserError: FILE: row 0: {VALUES}",
    "lists.jsonl": f"2 rows, 1 good, too-large: FILE, line 2: {VALUES}",
    "objects.jsonl": f"2 rows, 1 good, too-large: FILE, line 2: {VALUES}",
    "images.jsonl": f"2 rows, 1 good, too-large: FILE, line 2: {VALUES}",
    "keys.jsonl": "2 rows, 1 good, too-large: FILE: row 1: 150001 keys; at most 1000 are read",
    "long-key.jsonl": "2 rows, 1 good, too-large: FILE: row 1: the key 'prompts.* has more than 1000 characters",
    "deep.jsonl": "2 rows, 1 good, json: FILE, line 2: nested deeper than 64 levels",
    "deep-500.jsonl": "2 rows, 1 good, json: FILE, line 2: nested deeper than 64 levels",
    "marks.jsonl": "2 rows, 1 good, placeholders: FILE: row 1",
    "id.jsonl": "2 rows, 1 good, too-large: FILE: row 1: an id of 3000000 characters; at most 1000 are read",
    "escapes.jsonl": "2 rows, 1 good, json: FILE, line 2: not valid JSON",
    "many-bad.jsonl": "UserError: FILE: more than 100000 rows can't be used; the first: FILE: row 1: expected",
    "blank-lines.jsonl": "2 rows, 2 good",
    "blank-list.json": "1 rows, 1 good",
    "huge-int.json": "2 rows, 1 good, json: FILE: row 0: not valid JSON: Exceeds the limit .4300 digits",
    "surrogate.jsonl": r"3 rows, 1 good, schema: FILE, line 2: unpaired surrogate in .*\\ud800.*: not valid",
    "nul-terabyte.json": "UserError: FILE: not valid JSON: Expecting value",
    "terabyte.jsonl": "UserError: FILE, line 2: longer than 67108864 bytes",
    "line-10-gb.jsonl": "UserError: FILE, line 1: longer than 67108864 bytes",
    "fifo.json": "UserError: FILE: cannot read this file: a FIFO, expected a regular file",
    "device.json": "UserError: FILE: cannot read this file: a device, expected a regular file",
    "folder.json": "UserError: FILE: cannot be read: Is a directory",
    "pax-gigabyte.tar": HEADERS,
    "long-name.tar": HEADERS,
    "long-name-chain.tar": HEADERS,
    "pax-digits.tar": "1 rows, 0 good, truncated: FILE: damaged .*: an extended header that is a row of digits",
    "dots.tar": "1 rows, 0 good, truncated: FILE: has a name of 59984 characters near byte 1024; at most 1024",
    "sparse-terabyte.tar": "2 rows, 1 good, not-a-file: FILE: 1.json: a sparse file",
    "size-terabyte.tar": "2 rows, 1 good, too-large: FILE: 1: 1099511627776 bytes; at most 268435456 are read",
    "negative.tar": "1 rows, 0 good, truncated: FILE: truncated inside 1.json",
    "one-sample.tar": "1 rows, 0 good, too-large: FILE: 0: more than 1000 members in one sample",
    "links.tar": "5 rows, 1 good, not-a-file: FILE: 1.json: a link to ",
    "zeros-terabyte.tar": "UserError: FILE: has no samples",
    "zeros-behind.tar": "1 rows, 1 good",
    "lists.tar": f"2 rows, 1 good, too-large: FILE: 1: {VALUES}",
    "deep-500.tar": "2 rows, 1 good, json: FILE: 1: nested deeper than 64 levels",
    "fifo.tar": "UserError: FILE: no such .tar file",
    "dictionary.parquet": "UserError: FILE: its footer claims 1000000 rows in 5261 bytes",
    "few.parquet": "4000 rows, 0 good, too-large: FILE: row group 0: .* at most 1073741824 are read",
    "turns.parquet": "2 rows, 0 good, too-large: FILE: row group 0: .* at most 1073741824 are read",
    "bytes.parquet": "2 rows, 1 good, schema: FILE: row 0: 'question' is not UTF-8 text",
    "types.parquet": "1 rows, 0 good, schema: FILE: row 0, turn 0: expected text, got 1",
    "dates.parquet": "1 rows, 0 good, schema: FILE: row 0",
    "footer-gigabyte.parquet": "UserError: FILE: a footer of 1073741824 bytes; at most 33554432 are read",
    "terabyte.parquet": "UserError: FILE: not a parquet file, or truncated",
    "fifo.parquet": "UserError: FILE: no such .parquet file",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    script = Path(__file__).parents[1] / "helpers" / "data" / "hostile_files.py"
    command = [sys.executable, str(script), "--small", str(tmp_path_factory.mktemp("hostile")), *OUTCOMES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return {found["name"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_hostile_file_has_its_outcome(outcomes, name):
    assert re.match(OUTCOMES[name], outcomes[name]["outcome"]), outcomes[name]["outcome"]


def test_none_of_them_costs_much(outcomes):
    assert max(found["seconds"] for found in outcomes.values()) < 30
    assert max(found["mib"] for found in outcomes.values()) < 250
