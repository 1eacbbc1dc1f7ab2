"""The scripts in examples/cluster, as SLURM and Kubernetes run them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli import ROOT
from tests.folders import united, write_many
from tisdiss_cli.folder.shards import shard_of

ARRAY = {f"SLURM_ARRAY_TASK_{name}": value for name, value in (("MIN", "0"), ("MAX", "7"), ("COUNT", "8"))}


@pytest.fixture
def many(tmp_path) -> Path:
    return write_many(tmp_path / "many")


def _environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    """With a `tisdiss` on the path, as an installed one."""
    command = tmp_path / "bin" / "tisdiss"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tisdiss_cli "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **variables}


def test_the_sbatch_script_does_its_tasks_share(many, tmp_path, mini_weights):
    script = ROOT / "examples" / "cluster" / "separate.sbatch"
    asked = [line.split("=")[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH --array=")]
    assert asked == ["1-8"]
    out = tmp_path / "out"
    variables = {**ARRAY, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "8"}
    done = subprocess.run(
        ["bash", script, many, out, "--weights", mini_weights, "--repeats", "1", "--device", "cpu"],
        env=_environment(tmp_path, **variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert set(united(out)) == {line for line in _names(many) if shard_of(line, 8) == 3}


def test_the_kubernetes_job_does_its_indexs_share(many, tmp_path, mini_weights):
    job = yaml.safe_load((ROOT / "examples" / "cluster" / "kubernetes-job.yaml").read_text())
    spec = job["spec"]
    assert (job["kind"], spec["completionMode"], spec["completions"]) == ("Job", "Indexed", 8)
    (container,) = spec["template"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    out = tmp_path / "out"
    values = {"IN": str(many), "OUT": str(out), "OPTIONS": f"--weights {mini_weights} --repeats 1 --device cpu"}
    for variable in container["env"]:
        assert variable["name"] in values
        assert variable["name"] == "OPTIONS" or any(variable["value"].startswith(mount) for mount in mounts)
    done = subprocess.run(
        [*container["command"], *container.get("args", [])],
        env=_environment(tmp_path, JOB_COMPLETION_INDEX="7", **values),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert set(united(out)) == {line for line in _names(many) if shard_of(line, 8) == 8}


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*.wav")]
