"""Protocol of streams: long signals processed in portions, in constant memory."""

from typing import ParamSpec, Protocol, TypeVar

Portion = ParamSpec("Portion")
Ready = TypeVar("Ready", covariant=True)
Rest = TypeVar("Rest", covariant=True)


class Stream(Protocol[Portion, Ready, Rest]):
    """Processor of a signal in portions; the whole output does not depend on where the signal was cut.

    If the portions are chunks of a recording, their borders are part of the signal.
    """

    def push(self, *portion: Portion.args, **more: Portion.kwargs) -> Ready:
        """Processes the next portion; returns the output that is final by then."""

    def finish(self) -> Rest:
        """Returns the rest of the output, at the end of the signal."""
