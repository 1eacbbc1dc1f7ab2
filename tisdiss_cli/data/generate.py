"""Generation of fixed mixtures from clean speech, in the layouts of WSJ0-2mix, WHAM! and WHAMR!, `min` version.

Each mixture depends on seed and index alone, so a set is reproducible and can be extended. Sources: Hershey et al. 2016
(WSJ0-2mix), Wichern et al. 2019 (WHAM!), Maciejewski et al. 2020 (WHAMR!); levels are root mean squares over active
frames instead of ITU-T P.56.
"""

import csv
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from tisdiss_cli.audio.read import read
from tisdiss_cli.audio.write import as_sndfile
from tisdiss_cli.data.augment import find_rooms, reverberate, sound_files, trim_to_direct_path
from tisdiss_cli.data.clips import FRAME, BadFiles, ErrorCollector, count_sample_rates, most_common_rate, read_clips
from tisdiss_cli.data.corpus import compatibility, find_speakers
from tisdiss_cli.data.datasets import METADATA
from tisdiss_cli.data.dynamic_mixing import active_level, draw_speakers, generator
from tisdiss_cli.errors import UserError

PEAK = 0.9  # peak of the loudest file of a mixture, as in WSJ0-2mix
_ATTEMPTS = 100
_LONGEST = 250  # bytes of a file name without its extension that every disk accepts


@dataclass(frozen=True)
class MixturePlan:
    """Components of one mixture."""

    speakers: list[str]
    utterances: list[Path]
    levels: list[float]  # dB, relative to their mean
    responses: list[Path]  # one per speaker, or empty
    noise: Path | None
    noise_start: float  # share of the recording, 0 to 1
    noise_db: float  # loudest speaker over noise


@dataclass(kw_only=True)
class MixtureSet:
    """Generator of mixtures.

    UserError if there are too few speakers or impulse responses, empty folders, or speakers' names too long to make a
    file name.
    """

    root: Path  # clean speech, one folder per speaker
    speakers: int  # number per mixture
    level_db: float  # relative levels are uniform within +- this
    exclude: Sequence[Sequence[str]]  # pairs of speakers, or patterns, never mixed
    rirs: Path | None  # impulse responses, one folder per room
    noise: Path | None  # folder of noise recordings
    noise_db: tuple[float, float]  # range of loudest speaker over noise, uniform
    seed: int

    def __post_init__(self) -> None:
        self.folders = find_speakers(self.root, self.speakers)  # utterances by speaker
        self.speech = [path for paths in self.folders.values() for path in paths]
        self.compatible = compatibility(list(self.folders), self.exclude, self.speakers)
        self.rooms = find_rooms(self.rirs, self.speakers) if self.rirs else []
        self.noises = sound_files(self.noise, "noise") if self.noise else []
        longest = sorted(self.folders, key=lambda name: len(os.fsencode(name)))[-self.speakers :]
        if len(os.fsencode(_name(1, longest, [-60.0] * self.speakers))) > _LONGEST:
            raise UserError(f"{self.root}: speakers' names are too long for a file: shorten {', '.join(longest)}")

    def sample_rate(self) -> int:
        """Returns the most common rate of the readable speech in Hz, the lowest of equals; BadFiles if none is."""
        rates, bad = count_sample_rates(self.speech)
        if not (rate := most_common_rate(rates)):
            raise BadFiles(bad)
        return rate

    def plan(self, index: int, attempt: int = 0) -> MixturePlan:
        """Draws a mixture's distinct speakers, utterances, levels, room and noise."""
        random = generator(torch.device("cpu"), self.seed, index, attempt)

        def choose(paths: list[Path]) -> Path:
            return paths[int(torch.randint(len(paths), (), generator=random))]

        names = list(self.folders)
        chosen = [
            names[i] for i in draw_speakers(self.compatible, 1, speakers=self.speakers, random=random)[0].tolist()
        ]
        utterances = [choose(self.folders[name]) for name in chosen]
        levels = (torch.rand(self.speakers, generator=random, dtype=torch.float64) * 2 - 1) * self.level_db
        levels[0] = 0
        levels -= levels.mean()
        responses: list[Path] = []
        if self.rooms:
            room = self.rooms[int(torch.randint(len(self.rooms), (), generator=random))]
            responses = [room[i] for i in torch.randperm(len(room), generator=random)[: self.speakers].tolist()]
        noise = choose(self.noises) if self.noises else None
        start, share = torch.rand(2, generator=random).tolist()
        low, high = self.noise_db
        return MixturePlan(chosen, utterances, levels.tolist(), responses, noise, start, low + (high - low) * share)

    def check(self, count: int, sample_rate: int) -> None:
        """Raises BadFiles if files are unreadable, silent or too short; logs resampling.

        Opens all speech, and reads the files of the first `count` mixtures in full.
        """
        plans = [self.plan(index) for index in range(count)]
        utterances = sorted({path for plan in plans for path in plan.utterances})
        responses = sorted({path for plan in plans for path in plan.responses})
        noises = sorted({plan.noise for plan in plans if plan.noise})
        errors = ErrorCollector()
        for what, paths in ((self.root, utterances), ("impulse responses", responses), ("noise", noises)):
            with errors.collect():
                for path, clip in zip(paths, read_clips(what, paths, sample_rate), strict=True):
                    if paths is utterances and clip.shape[0] < FRAME:
                        errors.sentences.append(f"{path} is too short: remove it or join it with others")
        errors.sentences += count_sample_rates(sorted(set(self.speech) - set(utterances)))[1]
        errors.raise_if_any()

    def draw(self, count: int, sample_rate: int) -> Iterator[tuple[MixturePlan, dict[str, Tensor]]]:
        """Yields `count` mixtures: the components, and the files by folder as `render` returns them.

        Draws again if an utterance is silent for the length of the mixture.
        """
        for index in range(count):
            for attempt in range(_ATTEMPTS):
                plan = self.plan(index, attempt)
                files = render(plan, sample_rate)
                if files is not None:
                    break
            else:
                names = ", ".join(str(path) for path in plan.utterances)
                raise UserError(
                    f"{self.root}: {_ATTEMPTS} draws had a silent utterance for the length of the mixture, the last "
                    f"one {names}: remove files that are very short or begin with a long silence"
                )
            yield plan, files


def render(plan: MixturePlan, sample_rate: int) -> dict[str, Tensor] | None:
    """Returns the files of a mixture by folder, int16 (L,), as long as the shortest utterance.

    Mixtures are exact sums of the other files. Returns None if an utterance is silent over that length.
    """
    clips = [read(path, sample_rate) for path in plan.utterances]
    length = min(clip.shape[0] for clip in clips)
    dry = torch.stack([clip[:length] for clip in clips])  # (S, L)
    level = active_level(dry)
    if not (level > 0).all():
        return None
    dry = dry / level * 10 ** (torch.tensor(plan.levels)[:, None] / 20)
    parts = {"anechoic" if plan.responses else "": dry}
    if plan.responses:
        responses = [trim_to_direct_path(read(path, sample_rate)) for path in plan.responses]
        parts["reverb"] = torch.stack([reverberate(x, h) for x, h in zip(dry, responses, strict=True)])
    if plan.noise:
        noise = read(plan.noise, sample_rate)
        begin = int(plan.noise_start * noise.shape[0])
        noise = noise[(begin + torch.arange(length)) % noise.shape[0]]
        loudest = active_level(dry).max()
        parts["noise"] = noise / noise.square().mean().sqrt().clamp(min=1e-6) * loudest * 10 ** (-plan.noise_db / 20)
    scale = PEAK / max(float(signal.abs().max()) for signal in _folders(parts).values()) * 32767
    whole = _folders({name: (signal * scale).round().int() for name, signal in parts.items()})
    return {name: signal.to(torch.int16) for name, signal in whole.items()}


def check_output_folder(out: Path, sources: dict[str, Path | None]) -> None:
    """Raises a UserError if `out` is inside one of `sources`, input folders by argument or option."""
    for option, folder in sources.items():
        if folder is not None and out.resolve().is_relative_to(os.path.realpath(folder)):
            raise UserError(f"OUT {out} is inside {option} {folder}: name a folder outside it")


def write_set(
    mixtures: MixtureSet, out: Path, *, count: int, sample_rate: int, format: str, advance: Callable[[], object]
) -> None:
    """Writes `count` mixtures, 16 bit, and their components in `mixtures.csv`, to a new or empty `out`, atomically.

    `format` is "wav" or "flac"; `advance` is called after every mixture. UserError if `out` cannot be written, or as
    from `MixtureSet.draw`.
    """
    out = out.resolve()  # a link stays
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        with (part / METADATA).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            for number, (plan, files) in enumerate(mixtures.draw(count, sample_rate), 1):
                name = _name(number, plan.speakers, plan.levels)
                for folder, samples in files.items():
                    (part / folder).mkdir(exist_ok=True)
                    path = part / folder / f"{name}.{format}"
                    soundfile.write(as_sndfile(path), samples.numpy(), sample_rate, subtype="PCM_16")
                length = next(iter(files.values())).shape[0]
                row = {"id": name, **_row(mixtures, plan), "samples": length, "sample_rate": sample_rate}
                table = csv.DictWriter(file, list(row))
                if number == 1:
                    table.writeheader()
                table.writerow(row)
                advance()
        if out.exists():
            out.rmdir()
        part.replace(out)
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"OUT {out} cannot be written ({getattr(error, 'strerror', None) or error})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _name(number: int, speakers: Sequence[str], levels: Sequence[float]) -> str:
    """Returns the file name of a mixture, without the extension."""
    return "_".join([f"{number:05}", *(f"{name}_{db:.2f}" for name, db in zip(speakers, levels, strict=True))])


def _row(mixtures: MixtureSet, plan: MixturePlan) -> dict[str, object]:
    """Returns the components of a mixture by column, with paths relative to the input folders."""

    def below(path: Path | None, root: Path | None) -> str:
        return path.relative_to(root).as_posix() if path and root else ""

    row: dict[str, object] = {}
    columns = zip_longest(plan.speakers, plan.utterances, plan.levels, plan.responses)
    for number, (speaker, utterance, level, response) in enumerate(columns, 1):
        row[f"speaker_{number}"] = speaker
        row[f"utterance_{number}"] = below(utterance, mixtures.root)
        row[f"level_{number}"] = f"{level:.3f}"
        row[f"rir_{number}"] = below(response, mixtures.rirs)
    return {
        **row,
        "noise": below(plan.noise, mixtures.noise),
        "noise_level": f"{plan.noise_db:.3f}" if plan.noise else "",
    }


def _folders(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the files of WSJ0-2mix, WHAM! (with noise) or WHAMR! (with rooms) by folder, as sums of `parts`.

    `parts` are the sources (S, L) by kind of reverberation, and "noise" (L,) if any.
    """
    noise = parts.get("noise")
    folders: dict[str, Tensor] = {} if noise is None else {"noise": noise}
    for room, sources in parts.items():
        if room != "noise":
            end = f"_{room}" if room else ""
            clean = sources.sum(dim=0, dtype=sources.dtype)
            folders["mix_clean" + end if end or noise is not None else "mix"] = clean
            folders |= {f"s{number}{end}": source for number, source in enumerate(sources, 1)}
            if noise is not None:
                folders[f"mix_both{end}"] = clean + noise
                folders[f"mix_single{end}"] = sources[0] + noise
    return folders
