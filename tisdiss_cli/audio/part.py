"""What a recording within a file promises, and what there is of it."""

from dataclasses import dataclass, field

SLACK = 0.1  # seconds that a header may promise in excess before its file counts as cut


@dataclass
class Part:
    """One recording within a file; offsets and sizes are in bytes."""

    kind: str  # "wav", "flac", "mp4", ...; "" for those that nothing is known of
    start: int
    end: int
    missing: int = 0  # promised beyond the end of the file
    byte_rate: float = 0.0  # of its samples, bytes/s; 0 where that is unknown
    patches: dict[int, bytes] = field(default_factory=dict)  # what the header should have, by its place in the part
    note: str = ""  # why the header is not believed
    frames: int | None = None  # promised by an MP3's Xing or VBRI header

    @property
    def cut(self) -> bool:
        """Whether more is missing than a wrong header explains."""
        return self.missing > SLACK * self.byte_rate


class NotHere(Exception):
    """The bytes are not of this kind."""


def count_bytes(number: int) -> str:
    """ "1 byte", "2 bytes" """
    return f"{number} byte{'s' * (number != 1)}"
