"""A hundred thousand inputs: what is kept of each is small."""

import tracemalloc

from tisdiss_cli.folder.inputs import Input
from tisdiss_cli.folder.jobs import plan_jobs
from tisdiss_cli.folder.record import Line, Record
from tisdiss_cli.folder.settings import Options
from tisdiss_cli.folder.triage import triage


def test_an_input_its_job_and_its_line_take_few_kilobytes(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    count = 5000
    tracemalloc.start()
    names = [f"speaker{index // 100:05d}/session/recording_{index:07d}.wav" for index in range(count)]
    listed = [Input(name, f"{tmp_path}/{name}") for name in names]
    planned = plan_jobs(listed, Options(out=tmp_path / "out"), 2)
    record = Record(tmp_path)
    assert len(triage(planned, record, {"repeats": 1}, places=names).todo) == count
    for job in planned:
        record.append(
            Line(job.input, "done", job.resolved, outputs=job.outputs, settings={"repeats": 1}, source=[7, 8])
        )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(record.provenance) == 2 * count
    assert peak / count < 3000  # of the 500 MB that a hundred thousand may take
