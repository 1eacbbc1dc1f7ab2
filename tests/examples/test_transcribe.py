"""A transcript has each voice's words where that voice speaks, in the order of time."""

import json
import runpy
import sys
from types import ModuleType, SimpleNamespace

from tests.cli import ROOT


class Listener:
    """A recogniser that says which file it heard, for each clip that it was given."""

    def transcribe(self, path, *, language, clip_timestamps):
        ends = zip(clip_timestamps[::2], clip_timestamps[1::2], strict=True)
        return [SimpleNamespace(start=a, end=b, text=f" {path} in {language} ") for a, b in ends], None


def test_each_voice_is_heard_where_it_speaks(tmp_path, monkeypatch):
    package = ModuleType("faster_whisper")
    package.WhisperModel = Listener
    monkeypatch.setitem(sys.modules, "faster_whisper", package)
    script = runpy.run_path(str(ROOT / "examples" / "transcript" / "transcribe.py"))
    for name in ("call_s1.flac", "call_s2.flac", "recall_s1.flac", "call.json"):
        (tmp_path / name).touch()
    turns = [(0.0, 2.0, "s2"), (1.0, 3.0, "s1"), (4.0, 5.0, "s2")]
    segments = [{"start": start, "end": end, "speaker": speaker} for start, end, speaker in turns]
    (tmp_path / "call.json").write_text(json.dumps({"speakers": ["s1", "s2", "s3"], "segments": segments[:]}))
    (tmp_path / "call_s3.flac").touch()
    found = script["lines"](tmp_path / "call.json", Listener(), "en")
    assert found == [(a, b, speaker, f"{tmp_path / f'call_{speaker}.flac'} in en") for a, b, speaker in turns]
