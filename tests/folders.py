"""A folder of recordings to separate, and what a run made of it."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile

from tisdiss_cli.folder.jobs import plan_jobs
from tisdiss_cli.folder.pipeline import Pipeline
from tisdiss_cli.folder.record import Record, read_lines
from tisdiss_cli.folder.run_lock import PARTS
from tisdiss_cli.folder.settings import Options, Settings
from tisdiss_cli.separation.separator import Separator

RATE = 8000


def speech_like(seconds: float, seed: int, rate: int = RATE, channels: int = 1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    length = round(seconds * rate)
    envelope = 0.6 + 0.4 * np.sin(np.arange(length) / rate * 5 + seed)
    return (generator.standard_normal((length, channels)) * 0.1 * envelope[:, None]).astype(np.float32)


def records(out: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in (out / "tisdiss.jsonl").read_text().splitlines()]
    return {line["input"]: line for line in lines}


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.wav") if path.is_file()}


def separate(
    folder: Path, out: Path, weights: Path, batch_size: int = 1, seconds: float = 1.0, **options
) -> dict[str, dict]:
    """The command's work, in this process."""
    separator = options.pop("separator", None) or Separator.load(weights, "cpu", "fp32")
    jobs = plan_jobs(folder, Options(out=out, **options), separator.sources)
    out.mkdir(exist_ok=True)
    settings = Settings(
        options=Options(out=out, separator_repeats=1, **options),
        repeats=1,
        plan=separator.plan(seconds),
        batch_size=batch_size,
    )
    record = Record(out)
    for _ in Pipeline(separator, settings, out / PARTS, lambda job, line: record.append(line)).run(jobs):
        pass
    shutil.rmtree(out / PARTS)
    return records(out)


def write_folder(tmp_path: Path) -> Path:
    """Files of equal and unequal lengths, rates and channel counts, in a tree."""
    source = tmp_path / "in"
    (source / "sub" / "deep").mkdir(parents=True)
    for index, (name, seconds, rate, channels) in enumerate(
        [
            ("a.wav", 2.3, 8000, 1),
            ("b.flac", 0.5, 44_100, 2),
            ("sub/a.wav", 0.5, 110_000, 1),
            ("sub/deep/c.ogg", 3.0, 8000, 3),
            ("sub/d.wav", 0.5, 8000, 1),
            ("e.wav", 1.0, 8000, 1),
        ]
    ):
        soundfile.write(source / name, speech_like(seconds, index, rate, channels), rate)
    return source


def bad_files(folder: Path) -> dict[str, str]:
    """Bad files by name, with a word that the reason must have."""
    x = np.random.default_rng(0).standard_normal((16_000, 2)).astype(np.float32) * 0.1
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("not a sound file\n" * 20)
    soundfile.write(folder / "zero.wav", x[:0], 16_000)
    for value, name in ((np.nan, "nan.wav"), (np.inf, "inf.wav")):
        y = x.copy()
        y[15_000, 1] = value
        soundfile.write(folder / name, y, 16_000, subtype="FLOAT")
    for name in ("cut.wav", "cut.flac", "cut.ogg", "cut.aiff", "cut.mp3"):
        soundfile.write(folder / name, x, 16_000)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    (folder / "gone.wav").symlink_to(folder / "nowhere.wav")
    return {
        "empty.wav": "empty",
        "text.wav": "not a sound file",
        "zero.wav": "no samples",
        "nan.wav": "NaN",
        "inf.wav": "infinite",
        "cut.wav": "truncated",
        "cut.flac": "truncated",
        "cut.ogg": "truncated",
        "cut.aiff": "truncated",
        "cut.mp3": "truncated",
        "gone.wav": "No such file",
    }


def write_many(source: Path) -> Path:
    """Twenty short recordings in two folders."""
    for index in range(20):
        path = source / f"{index % 2}" / f"{index:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, speech_like(0.2 + index / 50, index), RATE)
    return source


def united(out: Path) -> dict[str, dict]:
    """The newest line of every input, of all files of the record: by the lines' own times."""
    return {line.input: asdict(line) for line in read_lines(out)}
