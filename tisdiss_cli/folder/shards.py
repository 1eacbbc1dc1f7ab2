"""Shards (`--shard`): shares of the inputs by their names alone."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from tisdiss_cli.errors import UserError

MOST = 1_000_000  # limit of shards


@dataclass(frozen=True)
class Shard:
    """Shard `index`, from 1, of `count`."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """Name in file names: "3-of-8"."""
        return f"{self.index}-of-{self.count}"

    def takes(self, name: str) -> bool:
        """Returns whether an input, by its path relative to IN, belongs to this shard."""
        return shard_of(name, self.count) == self.index

    def overlaps(self, other: "Shard | None") -> bool:
        """Returns whether an input could belong to both; None stands for all inputs."""
        return other is None or other.count != self.count or other.index == self.index


def shard_of(name: str, count: int) -> int:
    """Returns the shard, 1 to `count`, of a relative path, by a hash of its bytes."""
    return int.from_bytes(sha256(os.fsencode(name)).digest()[:8], "big") % count + 1


def parse_shard(text: str | None, variables: Mapping[str, str] = os.environ) -> Shard | None:
    """Returns the shard of "3/8", "slurm" or "slurm/8"; None for None.

    "slurm" is this task of a job array without gaps; "slurm/8" takes only the index from the array, so that some shards
    can be done again (`--array=1,4-6`). UserError for another text, or missing or unfit variables of SLURM.
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(?:(\d{1,7})|(slurm))(?:/(\d{1,7}))?\s*", text, re.ASCII)
    if not found or (found[1] and not found[3]):
        raise UserError(f"--shard {text}: write index/count, as in 3/8, or slurm within a job array")
    if not found[3]:
        return _of_array(text, variables)
    index, count = int(found[1] or _variable("ID", text, variables)), int(found[3])
    if not 1 <= index <= count <= MOST:
        hint = f"number the array from 1, as in --array=1-{count}" if found[2] else "the first is 1"
        raise UserError(f"--shard {text}: {index} is not one of 1 to {count}: {hint}")
    return Shard(index, count)


def _of_array(text: str, variables: Mapping[str, str]) -> Shard:
    """Returns the shard of this task of a SLURM array without gaps."""
    index, first, last, tasks = (_variable(name, text, variables) for name in ("ID", "MIN", "MAX", "COUNT"))
    step = _variable("STEP", text, {"SLURM_ARRAY_TASK_STEP": "1", **variables})
    if step < 1 or first + step * (tasks - 1) != last or (index - first) % step:
        gaps = f"the array has gaps ({tasks} tasks from {first} to {last})"
        raise UserError(f"--shard {text}: {gaps}: write the number of shards, as in slurm/8")
    return Shard((index - first) // step + 1, tasks)


def _variable(name: str, text: str, variables: Mapping[str, str]) -> int:
    value = variables.get(f"SLURM_ARRAY_TASK_{name}", "")
    if not value.isdecimal():
        state = f"is {value!r}" if value else "is not set"
        raise UserError(f"--shard {text}: SLURM_ARRAY_TASK_{name} {state}: run it by sbatch --array=1-8, or write 3/8")
    return int(value)


def array_expression(indices: Iterable[int]) -> str:
    """Returns "1,4-6" for 1, 4, 5, 6, as for `sbatch --array`; "" for none."""
    ranges: list[list[int]] = []
    for index in sorted(set(indices)):
        if ranges and index == ranges[-1][-1] + 1:
            ranges[-1][1:] = [index]
        else:
            ranges.append([index])
    return ",".join("-".join(map(str, ends)) for ends in ranges)
