"""Fold forward: compute expected counts from a flux and a detection's own response."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raypipe.model.statistics import MU_MIN

if TYPE_CHECKING:
    from raypipe.model.features import Batch

_AMPLITUDE_STEPS = 8


def fold(flux: Tensor, batch: Batch, energy_widths_kev: Tensor) -> Tensor:
    """Compute expected source counts per channel bin, (n, bins), from a photon flux density.

    mu_c = exposure_s * sum_k R_kc A_k F_k dE_k, with `flux` F (n, n_energy) in photon/cm2/s/keV,
    `energy_widths_kev` dE (n_energy,), the row's effective area A in cm2 and its redistribution R.
    Rows with the same redistribution are folded together.
    """
    photons = flux * energy_widths_kev * batch.arf_cm2 * batch.exposure_s[:, None]
    return redistribute(photons, batch.response_index, batch.responses)


def redistribute(photons: Tensor, response_index: Tensor, responses: Tensor) -> Tensor:
    """Map detected photons per energy bin (n, n_energy) to counts per channel bin (n, bins).

    `photons` may have further axes between the first and the last. Rows are grouped by
    `response_index` (n,), which is on the host, so that nothing here waits for a GPU.
    """
    if len(photons) == 0:
        return photons.new_zeros(*photons.shape[:-1], responses.shape[-1])
    # Sort rows by response, multiply each group by its matrix, and undo the sort.
    ordered, order = response_index.sort(stable=True)
    used, sizes = torch.unique_consecutive(ordered, return_counts=True)
    if len(used) == 1:
        return photons @ responses[int(used[0])]
    there, back = (rows.to(photons.device, non_blocking=True) for rows in (order, order.argsort()))
    groups = photons.index_select(0, there).split(sizes.tolist())
    own = (responses[number] for number in used.tolist())
    folded = torch.cat([group @ each for group, each in zip(groups, own, strict=True)])
    return folded.index_select(0, back)


@torch.no_grad()
def best_amplitude(counts: Tensor, shape: Tensor, background: Tensor) -> Tensor:
    """Return the amplitude a (n, 1) with which a * shape + background is most likely for `counts`.

    It is found by Fisher scoring in log a. At the maximum the likelihood does not change with a to
    first order, so that the gradient of a profile likelihood need not pass through a.
    """
    # Start where the total equals the excess over the background, at least half a count.
    total = shape.sum(-1, keepdim=True).clamp_min(1e-30)
    excess = (counts.sum(-1, keepdim=True) - background.sum(-1, keepdim=True)).clamp_min(0.5)
    log_a = torch.log(excess / total)
    for _ in range(_AMPLITUDE_STEPS):
        source = torch.exp(log_a) * shape
        mu = (source + background).clamp_min(MU_MIN)
        # With s = a * shape: dlnL/dln a = sum s (n / mu - 1), Fisher information sum s^2 / mu.
        gradient = (source * (counts / mu - 1.0)).sum(-1, keepdim=True)
        information = (source**2 / mu).sum(-1, keepdim=True).clamp_min(1e-3)
        log_a = log_a + (gradient / information).clamp(-2.0, 2.0)  # at most a factor e^2
    floor = torch.log(0.01 / total)  # at least 0.01 expected source counts
    return torch.exp(torch.maximum(log_a, floor))


def cash_per_bin(counts: Tensor, mu: Tensor) -> Tensor:
    """Compute the Cash statistic per bin (`raypipe.model.statistics.cash`), differentiable in mu.

    It is zero in bins without expected and observed counts, such as padded bins.
    """
    log_terms = torch.xlogy(counts, counts) - torch.xlogy(counts, mu.clamp_min(MU_MIN))
    return 2.0 * (mu - counts + log_terms)
