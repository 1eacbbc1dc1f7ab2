"""OUT's record, of several files: which line of an input counts, and who writes where."""

import json
import time
from pathlib import Path

from tests.cli import tisdiss
from tisdiss_cli.folder.record import Record


def _row(input: str, time: float, status: str = "done", **more) -> str:
    outputs = [f"{Path(input).stem}_s1.wav"] if status == "done" else []
    return json.dumps({"input": input, "status": status, "outputs": outputs, "time": time, **more}) + "\n"


def test_later_lines_count_whichever_file_they_are_in(tmp_path):
    (tmp_path / "tisdiss.jsonl").write_text(
        _row("a.wav", 5, settings={"repeats": 1}) + _row("b.wav", 9, settings={"repeats": 1}) + "torn {"
    )
    (tmp_path / "tisdiss.1-of-2.jsonl").write_text(
        _row("a.wav", 7, settings={"repeats": 2}) + _row("b.wav", 8, settings={"repeats": 2})
    )
    (tmp_path / "tisdiss.2-of-2.jsonl").write_text(
        json.dumps({"input": "c.wav", "status": "done", "outputs": ["c.wav"]})
    )
    (tmp_path / "tisdiss.notes.txt").write_text(_row("d.wav", 10))
    for name in ("a_s1.wav", "b_s1.wav", "c.wav"):
        (tmp_path / name).touch()
    record = Record(tmp_path)
    for output, repeats in (("a_s1.wav", 2), ("b_s1.wav", 1), ("c.wav", None)):
        assert record.makers.get(output).settings.get("repeats") == repeats
    assert record.makers.get("d_s1.wav") is None and "d_s1.wav" not in record.makers
    assert record.done(["a_s1.wav"], {"repeats": 2}, [])
    with (tmp_path / "tisdiss.1-of-2.jsonl").open("a") as file:
        file.write(_row("a.wav", 20, "failed"))
        file.write(_row("b.wav", 21, settings={"repeats": 3})[:-9])  # is just being written
        file.flush()
        assert record.reread()
        assert not record.done(["a_s1.wav"], {"repeats": 2}, [])
        assert record.makers.get("b_s1.wav").settings == {"repeats": 1}
        file.write(_row("b.wav", 21, settings={"repeats": 3})[-9:])
    assert record.reread() and not record.reread()
    assert record.makers.get("b_s1.wav").settings == {"repeats": 3}


def test_a_writer_appends_to_its_own_file_alone(many, tmp_path, options):
    out = tmp_path / "out"
    tisdiss("separate", many, out, "--shard", "1/2", *options)
    first = (out / "tisdiss.1-of-2.jsonl").read_bytes()
    tisdiss("separate", many, out, "--shard", "2/2", *options)
    assert (out / "tisdiss.1-of-2.jsonl").read_bytes() == first
    assert sorted(path.name for path in out.glob("*.jsonl")) == ["tisdiss.1-of-2.jsonl", "tisdiss.2-of-2.jsonl"]
    line = json.loads(first.splitlines()[0])
    assert abs(line["time"] - time.time()) < 600
    assert line["within"] == str(many.resolve())
