"""Streams: long signals taken in portions, in memory that does not grow with their length."""

from typing import ParamSpec, Protocol, TypeVar

Portion = ParamSpec("Portion")
Ready = TypeVar("Ready", covariant=True)
Rest = TypeVar("Rest", covariant=True)


class Stream(Protocol[Portion, Ready, Rest]):
    """Takes a signal in portions; what comes out in all does not depend on where it was cut.

    Where a portion is a chunk of a recording, the chunks' borders are part of the signal.
    """

    def push(self, *portion: Portion.args, **more: Portion.kwargs) -> Ready:
        """Takes the next portion; returns what is final by then."""

    def finish(self) -> Rest:
        """Returns what is left, once nothing follows."""
