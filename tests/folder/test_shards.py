"""`--shard`: shares of the inputs that are stable, and together give what one run gives."""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.cli import start, tisdiss
from tests.folders import contents, records, united
from tisdiss_cli.errors import UserError
from tisdiss_cli.folder.run_lock import PARTS
from tisdiss_cli.folder.shards import Shard, array_expression, parse_shard, shard_of

ARRAY = {f"SLURM_ARRAY_TASK_{name}": value for name, value in (("MIN", "0"), ("MAX", "7"), ("COUNT", "8"))}


def lasting(line: dict) -> dict:
    """What of a line is the same in every run."""
    return {
        key: value for key, value in line.items() if key not in ("time", "elapsed_seconds", "sources", "files_from")
    }


def test_a_shard_is_a_stable_share():
    names = [f"speaker{index % 30}/take {index}.wav" for index in range(4000)]
    for count in (1, 2, 8, 1000):
        shards = [Shard(index, count) for index in range(1, count + 1)]
        assert all(sum(shard.takes(name) for shard in shards) == 1 for name in names[: 40_000 // count])
    sizes = Counter(shard_of(name, 8) for name in names)
    assert set(sizes) == set(range(1, 9)) and all(400 < size < 600 for size in sizes.values())  # 500 ± 5 deviations
    # `printf sub/call.wav | sha256sum` begins with e6d62a7b43217e72, and that of the bytes a\xff.wav with
    # 6baafa6780f47bf7: a later version must not move what is half done.
    assert shard_of("sub/call.wav", 8) == 0xE6D62A7B43217E72 % 8 + 1 == 3
    assert shard_of(os.fsdecode(b"a\xff.wav"), 8) == 0x6BAAFA6780F47BF7 % 8 + 1 == 8


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        ("3/8", {}, Shard(3, 8)),
        ("1/1", {}, Shard(1, 1)),
        ("slurm", {**ARRAY, "SLURM_ARRAY_TASK_ID": "0"}, Shard(1, 8)),
        ("slurm", {**ARRAY, "SLURM_ARRAY_TASK_ID": "7"}, Shard(8, 8)),
        (
            "slurm",
            {
                "SLURM_ARRAY_TASK_ID": "20",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_MAX": "40",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_STEP": "10",
            },
            Shard(2, 4),
        ),
        ("slurm/8", {"SLURM_ARRAY_TASK_ID": "5"}, Shard(5, 8)),
    ],
)
def test_shards_are_parsed(text, variables, expected):
    assert parse_shard(text, variables) == expected


@pytest.mark.parametrize(
    ("text", "variables", "word"),
    [
        ("0/8", {}, "first is 1"),
        ("9/8", {}, "not one of"),
        ("3", {}, "3/8"),
        ("-1/8", {}, "3/8"),
        ("3/0", {}, "not one of"),
        ("1.5/8", {}, "3/8"),
        ("٣/8", {}, "3/8"),
        ("slurm", {}, "is not set"),
        ("slurm", {"SLURM_ARRAY_TASK_ID": "x"}, "'x'"),
        # Again, some of a greater array: their number says nothing of it.
        (
            "slurm",
            {
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_MAX": "6",
                "SLURM_ARRAY_TASK_COUNT": "4",
            },
            "slurm/8",
        ),
        ("slurm/8", {"SLURM_ARRAY_TASK_ID": "0"}, "from 1"),
    ],
)
def test_what_is_no_shard_is_told(text, variables, word):
    with pytest.raises(UserError, match="--shard") as error:
        parse_shard(text, variables)
    assert word in str(error.value)


def test_an_array_expression_names_each_once():
    for indices in ([], [1], [1, 4, 5, 6], [2, 3, 9, 11, 12], range(1, 9)):
        text = array_expression(indices)
        expanded = [
            index
            for part in filter(None, text.split(","))
            for index in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
        ]
        assert expanded == sorted(indices)
    assert array_expression([6, 1, 5, 4]) == "1,4-6"


def test_eight_shards_killed_among_them_give_what_one_run_gives(many, tmp_path, options):
    tisdiss("separate", many, tmp_path / "one", *options)
    out = tmp_path / "out"
    kills = [start("separate", many, out, "--shard", f"{index}/8", *options) for index in (2, 5)]
    for process, index in zip(kills, (2, 5), strict=True):
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and not _begun(out, f"{index}/8"):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    for index in range(1, 9):
        tisdiss("separate", many, out, "--shard", f"{index}/8", *options)
    assert contents(out) == contents(tmp_path / "one")
    assert not (out / PARTS).exists()
    expected = {name: lasting(line) for name, line in records(tmp_path / "one").items()}
    assert {name: lasting(line) for name, line in united(out).items()} == expected
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    tisdiss("separate", many, out, *options)  # one run knows what the shards have done, and does nothing again
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")} == before


def _begun(out: Path, shard: str) -> bool:
    """Whether a shard's run has begun something."""
    return any((out / PARTS / shard.replace("/", "-of-")).glob("*/*.part"))


def test_shards_of_scores_merged_are_those_of_one_run(data, tmp_path, weights):
    command = ("score", data, "--weights", weights, "--repeats", "1-2", "--workers", 0, "--device", "cpu", "--quiet")
    tisdiss(*command, "--csv", tmp_path / "one.csv")
    for index in (1, 3, 4):
        tisdiss(*command, "--csv", tmp_path / "scores.csv", "--shard", f"{index}/4")
    left = {name for name in "abc" if shard_of(name, 4) == 2}
    run = tisdiss("score", data, "--csv", tmp_path / "scores.csv", "--merge", status=int(bool(left)))
    assert not left or "shards: 2" in run.stderr
    tisdiss(*command, "--csv", tmp_path / "scores.csv", "--shard", "2/4")
    run = tisdiss("score", data, "--csv", tmp_path / "scores.csv", "--json", tmp_path / "scores.json", "--merge")

    def rows(path: Path) -> list[list[str]]:
        cells = [row.split(",") for row in path.read_text().splitlines()]
        clock = cells[0].index("network_seconds")
        return [[*row[:clock], *row[clock + 1 :]] for row in cells]

    assert rows(tmp_path / "scores.csv") == rows(tmp_path / "one.csv")
    assert len(json.loads((tmp_path / "scores.json").read_text())["results"]) == 2
    tisdiss("score", data, "--csv", tmp_path / "none.csv", "--merge", status=2)
