"""What a run leaves, made by hand: recordings, voices and the record, for the report to read."""

import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
SETTINGS = {"weights": "light", "weights_sha256": "0" * 64, "repeats": 2, "precision": "fp32", "chunk_seconds": 8.0}


def tone(seconds: float, hertz: float, rate: int = RATE) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def add_file(root: Path, out: Path, name: str, seconds: float = 6.0, *, swapped: bool = False, **fields) -> dict:
    """A mixture of two tones below `root`, its voices below `out`, and its line of the record."""
    voices = [tone(seconds, 500), tone(seconds, 1500)]
    stem = name.rpartition(".")[0]
    outputs = [f"{stem}_s{number}.wav" for number in (1, 2)]
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    write(root / name, voices[0] + voices[1])
    for output, samples in zip(outputs, voices[::-1] if swapped else voices, strict=True):
        (out / output).parent.mkdir(parents=True, exist_ok=True)
        write(out / output, samples)
    return line(name, seconds, outputs=outputs, **{"path": str(root / name), **fields})


def add_channels(root: Path, out: Path, name: str, *, swapped: bool = False, **fields) -> dict:
    """The same with both voices in one file, each as a channel."""
    made = add_file(root, out, name, swapped=swapped, **fields)
    paths = [out / output for output in made["outputs"]]
    one = f"{name.rpartition('.')[0]}.wav"
    write(out / one, np.stack([soundfile.read(path)[0] for path in paths], axis=1))
    for path in paths:
        path.unlink()
    return made | {"outputs": [one], "voices": 2, "settings": {**SETTINGS, "layout": "channels"}}


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    with path.open("wb") as file:  # libsndfile takes no name that is not UTF-8
        soundfile.write(file, samples, rate, format="WAV")


def line(name: str, seconds: float = 6.0, **fields) -> dict:
    known = {"repeats": 2, "audio_seconds": seconds, "elapsed_seconds": seconds / 4, "warnings": []}
    return {
        "input": name,
        "status": "done",
        "path": f"/nowhere/{name}",
        "outputs": [],
        **known,
        "settings": SETTINGS,
        **fields,
    }


def failed(name: str, reason: str) -> dict:
    return line(name, 0.0, status="failed", reason=reason)


def write_record(out: Path, lines: list[dict]) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    (out / "tisdiss.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return out


HOSTILE = [
    '<img src=x onerror="window.hit=1">.wav',
    "</script><script>window.hit=1</script>.wav",  # in folders
    "\"quoted\" & 'single' 100% #1?a=b;c\\d.wav",
    "new\nline\ttab\r.wav",
    b"caf\xe9 \xff\xfe.wav".decode("utf-8", "surrogateescape"),
    "日本 😀😀 é.wav",
    "a\u2028b\u0085c\u202egnp.wav",
    "${window.hit=1} {{ 7*7 }} {% raw %} `x`.wav",
    "..hidden: javascript:alert(1).wav",
]
