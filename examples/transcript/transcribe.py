"""A transcript with speakers, from what `tisdiss separate --segments json` wrote, by faster-whisper.

    pip install faster-whisper
    tisdiss separate recordings/ voices/ --segments json
    python transcribe.py voices/call.json --model small

Each voice is transcribed by itself, only where it speaks, and the lines are sorted by time. For voices in files of
their own, named by default.
"""

import argparse
import json
from pathlib import Path

from faster_whisper import WhisperModel


def lines(segments_file: Path, model: WhisperModel, language: str | None) -> list[tuple[float, float, str, str]]:
    """Returns (start, end, speaker, text) in the order of time; times in seconds of the recording."""
    activity = json.loads(segments_file.read_text(encoding="utf-8"))
    found = []
    for speaker in activity["speakers"]:
        own = [segment for segment in activity["segments"] if segment["speaker"] == speaker]
        voice = next(segments_file.parent.glob(f"{segments_file.stem}_{speaker}.*"))
        clips = [time for segment in own for time in (segment["start"], segment["end"])]
        if clips:  # without any, the whole file would be transcribed
            spoken, _ = model.transcribe(str(voice), language=language, clip_timestamps=clips)
            found += [(line.start, line.end, speaker, line.text.strip()) for line in spoken]
    return sorted(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("segments", type=Path, help="a .json file of --segments json")
    parser.add_argument("--model", default="small", help="a size, or a folder with a model")
    parser.add_argument("--language", help="as in en; default: detected in each voice")
    options = parser.parse_args()
    model = WhisperModel(options.model)
    for start, end, speaker, text in lines(options.segments, model, options.language):
        print(f"{start:7.2f} {end:7.2f}  {speaker}: {text}")
