"""Rooms and noise for mixtures: impulse responses and noise recordings, drawn on any device."""

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
    """Returns the impulse responses of each room, a folder that holds sound files.

    UserError if there are none, some of several channels, or rooms with fewer than `speakers` of them.
    """
    rooms: dict[Path, list[Path]] = {}
    bad: list[str] = []
    for path in sound_files(root, "impulse responses"):
        rooms.setdefault(path.parent, []).append(path)
        with suppress(AudioError):  # reading it gives the reason
            if (channels := probe(path).channels) != 1:
                bad.append(f"{path} has {channels} channels: an impulse response must have one")
    for room, paths in rooms.items():
        if len(paths) < speakers:
            bad.append(
                f"{room} has {len(paths)} impulse response: a folder is a room, and each of {speakers} speakers of a "
                "mixture needs one of its own there"
            )
    if bad:
        raise BadFiles(bad)
    return list(rooms.values())


def sound_files(root: Path, what: str) -> list[Path]:
    """Returns the sound files below `root`; UserError if there are none of `what`."""
    if not os.path.isdir(root):
        raise UserError(f"{root} is not a folder: pass one that holds sound files of {what}")
    paths = find(root)
    if not paths:
        raise UserError(f"{root} has no sound files: pass a folder of {what}")
    return paths


def direct_first(response: Tensor) -> Tensor:
    """Returns an impulse response (R,) from its strongest sample on, the direct path, which becomes 1.

    So a reverberant signal is aligned with the dry one, and the dry one is its direct path.
    """
    direct = int(response.abs().argmax())
    return response[direct:] / response[direct]


def reverberate(dry: Tensor, responses: Tensor) -> Tensor:
    """Returns signals as heard in the room, as long as before: (..., L), (..., R) -> (..., L)."""
    return load_torchaudio().functional.fftconvolve(dry, responses)[..., : dry.shape[-1]]


@dataclass(frozen=True)
class Rooms(OnDevice):
    """Impulse responses in memory, grouped by room."""

    responses: Tensor  # (N, R) float32, direct path first, zeros after
    member: Tensor  # (M, N) float32: 1 where a response belongs to a room

    @staticmethod
    def load(root: Path, sample_rate: int, speakers: int) -> "Rooms":
        """Reads all impulse responses below `root`, on the CPU; errors as `find_rooms` and `read_clips`."""
        rooms = find_rooms(root, speakers)
        responses = [direct_first(r) for r in read_clips(root, [path for room in rooms for path in room], sample_rate)]
        room = torch.tensor([number for number, paths in enumerate(rooms) for _ in paths])
        member = torch.nn.functional.one_hot(room, len(rooms)).T.float()
        return Rooms(torch.nn.utils.rnn.pad_sequence(responses, batch_first=True), member)

    def draw(self, batch: int, speakers: int, random: torch.Generator) -> Tensor:
        """Draws (batch, speakers, R): for each mixture a room and different responses of it."""
        room = torch.randint(len(self.member), (batch,), device=self.member.device, generator=random)
        return self.responses[pick_by_weight(self.member[room], speakers, random)]


@dataclass(frozen=True)
class Noises(OnDevice):
    """Noise recordings in memory, each at its full scale."""

    clips: Clips

    @staticmethod
    def load(root: Path, sample_rate: int) -> "Noises":
        """Reads all recordings below `root`, on the CPU; errors as `sound_files` and `read_clips`."""
        found = read_clips(root, sound_files(root, "noise"), sample_rate)
        return Noises(Clips.pack((noise / noise.abs().max())[None] for noise in found))

    def draw(self, batch: int, samples: int, random: torch.Generator) -> Tensor:
        """Draws (batch, samples) float32 of unit root mean square; a recording that is too short goes round."""
        starts, device = self.clips.starts, self.clips.starts.device
        which = torch.randint(len(starts), (batch, 1), device=device, generator=random)
        length = self.clips.lengths[which]
        begin = (torch.rand(batch, 1, device=device, generator=random) * length).long()
        position = (begin + torch.arange(samples, device=device)) % length
        noise = self.clips.samples[0, starts[which] + position].float()
        return noise / noise.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-3)
