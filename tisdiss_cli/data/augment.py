"""Reverberation and noise for mixtures: room impulse responses and noise recordings."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tisdiss_cli.audio.find import find
from tisdiss_cli.audio.read import AudioError, probe
from tisdiss_cli.data.clips import BadFiles, Clips, OnDevice, pick_by_weight, read_clips
from tisdiss_cli.errors import UserError
from tisdiss_cli.libraries import load_torchaudio


def find_rooms(root: Path, speakers: int) -> list[list[Path]]:
    """Returns the impulse responses of each room; every folder with sound files is a room.

    UserError if there are none, some have several channels, or a room has fewer than `speakers`.
    """
    rooms: dict[Path, list[Path]] = {}
    bad: list[str] = []
    for path in sound_files(root, "impulse responses"):
        rooms.setdefault(path.parent, []).append(path)
        with suppress(AudioError):  # reading it gives the reason
            if (channels := probe(path).channels) != 1:
                bad.append(f"{path} has {channels} channels: an impulse response must be mono")
    for room, paths in rooms.items():
        if len(paths) < speakers:
            count = f"{len(paths)} impulse response{'s' * (len(paths) != 1)}"
            bad.append(f"{room} has {count}: a room needs one for each of the {speakers} speakers")
    if bad:
        raise BadFiles(bad)
    return list(rooms.values())


def sound_files(root: Path, what: str) -> list[Path]:
    """Returns the sound files below `root`; UserError if there are none, with `what` to pass instead."""
    if not os.path.isdir(root):
        raise UserError(f"{root} is not a folder: pass a folder of {what}")
    paths = find(root)
    if not paths:
        raise UserError(f"{root} has no sound files: pass a folder of {what}")
    return paths


def trim_to_direct_path(response: Tensor) -> Tensor:
    """Returns an impulse response (R,) from its strongest sample, the direct path, on, scaled to 1 there.

    This aligns reverberant and dry signals.
    """
    direct = int(response.abs().argmax())
    return response[direct:] / response[direct]


def reverberate(dry: Tensor, responses: Tensor) -> Tensor:
    """Convolves signals with impulse responses and keeps their length: (..., L), (..., R) -> (..., L)."""
    return load_torchaudio().functional.fftconvolve(dry, responses)[..., : dry.shape[-1]]


@dataclass(frozen=True)
class Rooms(OnDevice):
    """Impulse responses in memory, grouped by room."""

    responses: Tensor  # (N, R) float32, direct path first, zeros after
    member: Tensor  # (M, N) float32: 1 where a response belongs to a room

    @staticmethod
    def load(root: Path, sample_rate: int, speakers: int) -> "Rooms":
        """Reads all impulse responses below `root`, on the CPU; errors as from `find_rooms` and `read_clips`."""
        rooms = find_rooms(root, speakers)
        responses = [
            trim_to_direct_path(r) for r in read_clips(root, [path for room in rooms for path in room], sample_rate)
        ]
        room = torch.tensor([number for number, paths in enumerate(rooms) for _ in paths])
        member = torch.nn.functional.one_hot(room, len(rooms)).T.float()
        return Rooms(torch.nn.utils.rnn.pad_sequence(responses, batch_first=True), member)

    def draw(self, batch: int, speakers: int, random: torch.Generator) -> Tensor:
        """Draws (batch, speakers, R): a room for each mixture, and distinct responses in it."""
        room = torch.randint(len(self.member), (batch,), device=self.member.device, generator=random)
        return self.responses[pick_by_weight(self.member[room], speakers, random)]


@dataclass(frozen=True)
class Noises(OnDevice):
    """Noise recordings in memory, each normalised to a peak of 1."""

    clips: Clips

    @staticmethod
    def load(root: Path, sample_rate: int) -> "Noises":
        """Reads all recordings below `root`, on the CPU; errors as from `sound_files` and `read_clips`."""
        recordings = read_clips(root, sound_files(root, "noise"), sample_rate)
        return Noises(Clips.pack((noise / noise.abs().max())[None] for noise in recordings))

    def draw(self, batch: int, samples: int, random: torch.Generator) -> Tensor:
        """Draws (batch, samples) float32 with a root mean square of 1; short recordings repeat."""
        starts, device = self.clips.starts, self.clips.starts.device
        index = torch.randint(len(starts), (batch, 1), device=device, generator=random)
        length = self.clips.lengths[index]
        begin = (torch.rand(batch, 1, device=device, generator=random) * length).long()
        position = (begin + torch.arange(samples, device=device)) % length
        noise = self.clips.samples[0, starts[index] + position].float()
        return noise / noise.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-3)
