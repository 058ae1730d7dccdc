"""A posterior that is given by a function, in place of that of a detection."""

from __future__ import annotations

from collections.abc import Callable

import torch

from raypipe.model.posterior_density import Amplitudes


class ToyPosterior:
    """A posterior of the latents alone, equal for all rows: `log_density` maps (n, draws, k)."""

    reference = torch.zeros(1, 1)

    def __init__(self, log_density: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.profile = log_density

    def take(self, rows: torch.Tensor) -> ToyPosterior:
        return self

    def coarse(self, center: torch.Tensor) -> ToyPosterior:
        return self

    def with_amplitude(self, z: torch.Tensor, noise: torch.Tensor, densities: None) -> Amplitudes:
        value = self.profile(z)
        return Amplitudes(noise.double(), value, torch.zeros_like(value))

    def at(self, z: torch.Tensor, log_amplitude: torch.Tensor, densities: None) -> torch.Tensor:
        return self.profile(z)
