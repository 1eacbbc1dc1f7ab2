"""OUT's record, of several files: which line of an input counts, who writes where, and what is none of it."""

import json
import random
import string
import time
from pathlib import Path

import pytest

from tests.cli import tisdiss
from tisdiss_cli.folder.record import Line, Record, RecordError, read_lines
from tisdiss_cli.folder.shards import Shard
from tisdiss_cli.folder.status import read_status
from tisdiss_cli.report.entries import read_entries


def _row(input: str, time: float, status: str = "done", **more) -> str:
    outputs = [f"{Path(input).stem}_s1.wav"] if status == "done" else []
    known = {"input": input, "status": status, "path": f"/in/{input}", "outputs": outputs, "time": time}
    return json.dumps({**known, **more}) + "\n"


def test_later_lines_count_whichever_file_they_are_in(tmp_path):
    (tmp_path / "tisdiss.jsonl").write_text(
        _row("a.wav", 5, settings={"repeats": 1}) + _row("b.wav", 9, settings={"repeats": 1}) + "torn {"
    )
    (tmp_path / "tisdiss.1-of-2.jsonl").write_text(
        _row("a.wav", 7, settings={"repeats": 2}) + _row("b.wav", 8, settings={"repeats": 2})
    )
    (tmp_path / "tisdiss.2-of-2.jsonl").write_text(_row("c.wav", 1)[:-1])
    (tmp_path / "tisdiss.notes.txt").write_text(_row("d.wav", 10))
    for name in ("a_s1.wav", "b_s1.wav", "c_s1.wav"):
        (tmp_path / name).touch()
    record = Record(tmp_path)
    for output, repeats in (("a_s1.wav", 2), ("b_s1.wav", 1), ("c_s1.wav", None)):
        assert record.provenance[output].settings.get("repeats") == repeats
    assert "d_s1.wav" not in record.provenance
    assert record.done(["a_s1.wav"], {"repeats": 2}, [])
    with (tmp_path / "tisdiss.1-of-2.jsonl").open("a") as file:
        file.write(_row("a.wav", 20, "failed"))
    assert not Record(tmp_path).done(["a_s1.wav"], {"repeats": 2}, [])


@pytest.mark.parametrize(("first", "status"), [("tisdiss.1-of-2.jsonl", "done"), ("tisdiss.2-of-2.jsonl", "failed")])
def test_status_and_report_and_the_run_agree(tmp_path, first, status):
    """The report once read the files by their names, so that a shard's older failure hid what was done since."""
    others = {"tisdiss.1-of-2.jsonl", "tisdiss.2-of-2.jsonl"} - {first}
    (tmp_path / first).write_text(_row("a.wav", 10))
    (tmp_path / others.pop()).write_text(_row("a.wav", 5 if status == "done" else 20, "failed", reason="so"))
    (tmp_path / "a_s1.wav").touch()
    (entry,) = read_entries(tmp_path)
    assert entry.line.status == status
    total = read_status(tmp_path).total
    assert (total.done, total.failed) == ((1, 0) if status == "done" else (0, 1))
    assert Record(tmp_path).done(["a_s1.wav"], {}, []) == (status == "done")


def test_a_writer_appends_to_its_own_file_alone(many, tmp_path, options):
    out = tmp_path / "out"
    tisdiss("separate", many, out, "--shard", "1/2", *options)
    first = (out / "tisdiss.1-of-2.jsonl").read_bytes()
    tisdiss("separate", many, out, "--shard", "2/2", *options)
    assert (out / "tisdiss.1-of-2.jsonl").read_bytes() == first
    assert sorted(path.name for path in out.glob("*.jsonl")) == ["tisdiss.1-of-2.jsonl", "tisdiss.2-of-2.jsonl"]
    line, other = (json.loads(row) for row in first.splitlines()[:2])
    assert abs(line["time"] - time.time()) < 600 and line["format"] == 1
    assert line["sources"] == [str(many.resolve())] and "sources" not in other


def test_what_is_written_is_read_back(tmp_path):
    """Whatever stands in the fields, and after a line that a kill tore."""
    names = ["plain.wav", "\udcff\n.wav", '"quoted"\\.wav', "\u2028é 日本.wav"]
    lines = [
        Line(name, "done", f"/in/{name}", outputs=[f"{name}_s1.wav"], seams=[1.5], settings={"channels": [1, 2]})
        for name in names
    ]
    lines.append(Line("bad.wav", "failed", "/in/bad.wav", "it is bad", channel=2, quality={"si_snri": 1, "worst": {}}))
    (tmp_path / "tisdiss.3-of-8.jsonl").write_text('{"input": "torn.wav", "stat')
    record = Record(tmp_path, Shard(3, 8), sources=[Path("/in")])
    for line in lines:
        record.append(line)
    assert list(read_lines(tmp_path)) == lines
    again = Record(tmp_path, Shard(3, 8))
    assert again.provenance.keys() == {f"{name}_s1.wav" for name in names} and again.torn == {"torn.wav"}


def _random_json(draw: random.Random, depth: int = 0) -> object:
    kinds = [
        lambda: None,
        lambda: draw.random() < 0.5,
        lambda: draw.choice([0, -1, 7, 10**400, 1 << 70, 2.5, float("nan"), float("inf"), -1e308]),
        lambda: "".join(draw.choices(string.printable + "é\ud800\x00", k=draw.randint(0, 5))),
        lambda: [_random_json(draw, depth + 1) for _ in range(draw.randint(0, 3))],
        lambda: {draw.choice([*FIELDS, "x"]): _random_json(draw, depth + 1) for _ in range(draw.randint(0, 3))},
    ]
    return draw.choice(kinds[: 4 if depth > 3 else 6])()


FIELDS = tuple(Line.__dataclass_fields__)


def test_any_json_of_any_shape_is_passed_over_or_understood(tmp_path):
    """In a line as a whole, and in place of one field of a good line; nobody who reads the record stumbles."""
    draw = random.Random(0)
    good = json.loads(_row("good.wav", 5, settings={"repeats": 2}))
    rows = [json.dumps(_random_json(draw)) for _ in range(1000)]
    rows += [json.dumps({**good, name: _random_json(draw)}) for name in FIELDS for _ in range(40)]
    rows += ["[" * 100_000, '{"input": ' * 2000, "\x00", '{"input": "a.wav"}', '{"input": "b\\x', json.dumps(good)[:-9]]
    draw.shuffle(rows)
    rows.append(json.dumps({**good, "input": "last.wav", "path": "/in/last.wav"}))
    (tmp_path / "tisdiss.jsonl").write_text("\n".join(rows) + "\n" + json.dumps(good)[:-9], errors="surrogatepass")
    (tmp_path / "good_s1.wav").touch()
    lines = list(read_lines(tmp_path))
    assert any(line.input == "last.wav" for line in lines)
    for line in lines:
        assert line.status in ("done", "failed") and all(isinstance(name, str) for name in line.outputs)
    record = Record(tmp_path)
    assert record.provenance["good_s1.wav"].key[0] == "last.wav" and "good.wav" in record.torn
    read_status(tmp_path)
    read_entries(tmp_path)
    record.append(Line("new.wav", "done", "/in/new.wav"))
    assert json.loads((tmp_path / "tisdiss.jsonl").read_bytes().splitlines()[-1])["input"] == "new.wav"


def test_a_last_line_cut_by_hand_is_done_again(many, tmp_path, options):
    out = tmp_path / "out"
    tisdiss("separate", many / "1", out, *options)
    whole = (out / "tisdiss.jsonl").read_bytes()
    (out / "tisdiss.jsonl").write_bytes(whole[:-100])
    loud = [option for option in options if option != "--quiet"]
    assert "1 separated, 0 failed, 9 done before" in tisdiss("separate", many / "1", out, *loud).stdout


def test_a_line_of_another_format_is_passed_over(tmp_path):
    (tmp_path / "tisdiss.jsonl").write_text(_row("a.wav", 1, format=2) + _row("b.wav", 1, format=1))
    assert [line.input for line in read_lines(tmp_path)] == ["b.wav"]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    record = Record(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RecordError, match="No space left on device: free some space"):
        record.append(Line("a.wav", "done", "/in/a.wav"))
