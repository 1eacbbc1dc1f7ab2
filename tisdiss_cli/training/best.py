"""The best weights of a run, and their mean, which is what the paper releases."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass
class Best:
    """Keeps the `count` states of lowest validation loss, on the CPU."""

    count: int
    losses: list[float] = field(default_factory=list)  # ascending
    states: list[State] = field(default_factory=list)

    def add(self, loss: float, state: State) -> bool:
        """Takes a state; True if it is among the best. Of equal losses the later is better."""
        place = sum(other < loss for other in self.losses)
        if place >= self.count:
            return False
        self.losses.insert(place, loss)
        self.states.insert(place, {name: value.detach().to("cpu", copy=True) for name, value in state.items()})
        del self.losses[self.count :], self.states[self.count :]
        return True

    def mean(self) -> State:
        """The plain mean of every tensor."""
        return {name: torch.stack([state[name] for state in self.states]).mean(dim=0) for name in self.states[0]}
