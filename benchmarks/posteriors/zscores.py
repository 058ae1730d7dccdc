"""Compare z-scores of the Cash statistic at few counts: do they have mean 0 and width 1?"""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import gammaln, xlogy

from benchmarks.posteriors.simulated import Simulated, in_parts
from raypipe.model.encode import measure
from raypipe.model.presets import Folded
from raypipe.model.refine import refine
from raypipe.model.statistics import MU_MIN, cash, cash_covariance, cash_moments

REFINE_STEPS = 6


def cash_third(mu: np.ndarray) -> np.ndarray:
    """Compute the cumulant of the Cash statistic with twice the counts, E[(C - <C>) (n - mu)^2]."""
    log_mu = np.linspace(np.log(1e-12), np.log(2000.0), 1600)
    table = np.empty_like(log_mu)
    for i, expected in enumerate(np.exp(log_mu)):
        reach = 12.0 * np.sqrt(expected) + 20.0
        n = np.arange(max(0, int(expected - reach)), int(expected + reach) + 1)
        probability = np.exp(xlogy(n, expected) - expected - gammaln(n + 1.0))
        value = cash(n, expected)
        table[i] = probability @ ((value - probability @ value) * (n - expected) ** 2)
    x = np.log(np.clip(mu, 1e-12, 2000.0))
    return np.where(mu > 2000.0, 2.0 * mu + 1.0, np.interp(x, log_mu, table))


def zscores(model: Folded, simulated: Simulated) -> dict[str, np.ndarray]:
    """Compute z-scores of each detection's fit, (n,), by the way in which they are corrected.

    "plug-in" takes the moments at the fitted model as they are; "today" is raypipe's
    `fit_zscore`. "corrected" has the conditional moments given the fit, to second order
    (McCullagh 1986; Chen et al., arXiv:2510.03466), extended to a fit with a prior: with the
    scores' weights x_c of bin c, the posterior covariance S, the bins' expected counts m, the
    covariance k11 and the third cumulant k12 of the statistic with the counts, the expectation is
    sum(C_e) - 1/2 sum_c (k12 - m g S x) x S x, with g = sum_c k11 x, and the variance falls by
    g S g.
    """
    found: dict[str, list[np.ndarray]] = {}
    for rows in in_parts(len(simulated.z)):
        batch = simulated.batch.take(rows)
        with torch.no_grad():
            refined = refine(model, model.encode(batch), batch, REFINE_STEPS)
            mu = model.expected_counts(refined.z, batch).double().numpy()
        expected, variance = (each.sum(-1) for each in cash_moments(mu))
        statistic = cash(batch.counts.numpy(), mu).sum(-1)
        unsure = batch.background_variance.double().numpy() / np.maximum(mu, MU_MIN)
        noise, noise_variance = unsure.sum(-1), (4.0 * unsure + 2.0 * unsure**2).sum(-1)
        x, covariance = refined.sensitivity.numpy(), refined.covariance.numpy()
        g = np.einsum("njc,nc->nj", x, cash_covariance(mu))
        along = np.einsum("njk,nk->nj", covariance, g)
        leverage = np.einsum("njc,njk,nkc->nc", x, covariance, x)
        third = cash_third(mu) - mu * np.einsum("nj,njc->nc", along, x)
        mean = expected - 0.5 * (third * leverage).sum(-1)
        taken = (g * along).sum(-1)
        scores = {
            "plug-in": (statistic - expected - noise) / np.sqrt(variance + noise_variance),
            "today": measure(model, batch, REFINE_STEPS)["fit_zscore"],
            "corrected": (statistic - mean - noise)
            / np.sqrt(np.maximum(variance - taken + noise_variance, 1e-6)),
        }
        for name, values in scores.items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(each) for name, each in found.items()}
