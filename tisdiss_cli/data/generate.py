"""Sets of fixed mixtures from clean speech, in the layouts of WSJ0-2mix, WHAM! and WHAMR!, `min` version.

Every mixture is drawn from seed and index alone, so a set is reproducible and a longer one begins with
a shorter one. Source: Hershey et al. 2016 (WSJ0-2mix), Wichern et al. 2019 (WHAM!), Maciejewski et al.
2020 (WHAMR!); levels are root mean squares over active frames instead of ITU-T P.56's.
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
from tisdiss_cli.data.augment import direct_first, find_rooms, reverberate, sound_files
from tisdiss_cli.data.clips import FRAME, BadFiles, Complaints, commonest, count_rates, read_clips
from tisdiss_cli.data.corpus import compatibility, find_speakers
from tisdiss_cli.data.datasets import METADATA
from tisdiss_cli.data.dynamic_mixing import active_level, draw_speakers, generator
from tisdiss_cli.errors import UserError

PEAK = 0.9  # of the loudest file of a mixture, as in WSJ0-2mix
_ATTEMPTS = 100
_LONGEST = 250  # bytes of a name that every disk takes, without the extension


@dataclass(frozen=True)
class Ingredients:
    """The parts of one mixture; levels are dB, relative to the speakers' mean."""

    speakers: list[str]
    utterances: list[Path]
    levels: list[float]
    responses: list[Path]  # one for each speaker, or none
    noise: Path | None
    noise_start: float  # share of the recording
    noise_db: float  # of the loudest speaker over the noise


@dataclass(kw_only=True)
class MixtureSet:
    """A source of mixtures.

    UserError if there are fewer speakers or impulse responses than a mixture needs, empty folders, or names of speakers
    that are too long for a mixture's.
    """

    root: Path  # a folder for each speaker
    speakers: int  # of a mixture
    level_db: float  # relative levels are uniform in +-this
    exclude: Sequence[Sequence[str]]  # pairs of patterns of speakers that are never mixed
    rirs: Path | None  # impulse responses, a folder for each room
    noise: Path | None  # a folder of noise
    noise_db: tuple[float, float]  # of the loudest speaker over the noise, uniform
    seed: int  # of all that is drawn

    def __post_init__(self) -> None:
        self.folders = find_speakers(self.root, self.speakers)  # utterances by speaker
        self.speech = [path for paths in self.folders.values() for path in paths]
        self.compatible = compatibility(list(self.folders), self.exclude, self.speakers)
        self.rooms = find_rooms(self.rirs, self.speakers) if self.rirs else []
        self.noises = sound_files(self.noise, "noise") if self.noise else []
        longest = sorted(self.folders, key=lambda name: len(os.fsencode(name)))[-self.speakers :]
        if len(os.fsencode(_name(1, longest, [-60.0] * self.speakers))) > _LONGEST:
            raise UserError(f"{self.root}: speakers' names are too long for a mixture's: shorten {', '.join(longest)}")

    def sample_rate(self) -> int:
        """Returns the commonest rate of the speech that can be read, Hz; of equals the lowest. BadFiles if none can."""
        rates, bad = count_rates(self.speech)
        if not (rate := commonest(rates)):
            raise BadFiles(bad)
        return rate

    def plan(self, index: int, attempt: int = 0) -> Ingredients:
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
        return Ingredients(chosen, utterances, levels.tolist(), responses, noise, start, low + (high - low) * share)

    def check(self, count: int, sample_rate: int) -> None:
        """BadFiles if some cannot be read, or are silent or too short; says what is resampled.

        All speech is opened; what `count` mixtures take is read whole.
        """
        plans = [self.plan(index) for index in range(count)]
        spoken = sorted({path for plan in plans for path in plan.utterances})
        responses = sorted({path for plan in plans for path in plan.responses})
        noises = sorted({plan.noise for plan in plans if plan.noise})
        complaints = Complaints()
        for what, paths in ((self.root, spoken), ("impulse responses", responses), ("noise", noises)):
            with complaints.collected():
                for path, clip in zip(paths, read_clips(what, paths, sample_rate), strict=True):
                    if paths is spoken and clip.shape[0] < FRAME:
                        complaints.sentences.append(f"{path} is too short: take it out, or join it with others")
        complaints.sentences += count_rates(sorted(set(self.speech) - set(spoken)))[1]
        complaints.check()

    def draw(self, count: int, sample_rate: int) -> Iterator[tuple[Ingredients, dict[str, Tensor]]]:
        """Yields `count` mixtures: what each is made of, and its files by folder (int16, as `render` has them).

        An utterance that is silent as far as the other one lasts is drawn again.
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
                    f"{self.root}: in {_ATTEMPTS} draws one of the utterances was silent as far as the other lasts, "
                    f"{names} at last: take out those that are too short or begin with too long a silence"
                )
            yield plan, files


def render(plan: Ingredients, sample_rate: int) -> dict[str, Tensor] | None:
    """Returns every file of a mixture by folder, int16 (L,), as long as its shortest utterance.

    Mixtures are exactly the sums of the other files. None when an utterance is silent in that length.
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
        responses = [direct_first(read(path, sample_rate)) for path in plan.responses]
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


def check_place(out: Path, sources: dict[str, Path | None]) -> None:
    """UserError where OUT lies inside a folder that mixtures are drawn from, by what the user knows it as."""
    for what, folder in sources.items():
        if folder is not None and out.resolve().is_relative_to(os.path.realpath(folder)):
            raise UserError(
                f"OUT {out} lies inside {what} {folder}: name a folder outside it, or its mixtures become inputs"
            )


def write_set(
    mixtures: MixtureSet, out: Path, *, count: int, sample_rate: int, format: str, advance: Callable[[], object]
) -> None:
    """Writes `count` mixtures, 16 bit, and `mixtures.csv`, what each is made of; `out` is whole or not there.

    `format` is "wav" or "flac"; `advance` is called after every mixture. UserError if `out`, a new or an empty folder,
    cannot be written, or as `MixtureSet.draw`.
    """
    out = out.resolve()  # what a link points to
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
    """Returns what a mixture's files are called, without their extension."""
    return "_".join([f"{number:05}", *(f"{name}_{db:.2f}" for name, db in zip(speakers, levels, strict=True))])


def _row(mixtures: MixtureSet, plan: Ingredients) -> dict[str, object]:
    """Returns what a mixture is made of, by column; paths are relative to the folders that were given."""

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
    """Returns the files of WSJ0-2mix, or of WHAM! with noise, or of WHAMR! with rooms, by folder: sums of the parts.

    Those are sources (S, L) by what they are heard in, and "noise" (L,) if there is some.
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
