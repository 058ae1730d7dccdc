"""Compare every spectrum of a batch with every view of the batch: losses of CLIP and SigLIP."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(similarity: Tensor, positive: Tensor) -> Tensor:
    """Return the cross-entropy of picking a view for a spectrum and the reverse, averaged.

    `similarity` (n, n) are logits of spectra (rows) with views (columns), `positive` (n, n) marks
    pairs of the same source. The target is uniform over the positives (Radford et al. 2021,
    arXiv:2103.00020, with the several positives of Khosla et al. 2020, arXiv:2004.11362).
    """
    weight = positive.to(similarity.dtype)
    rows = functional.log_softmax(similarity, dim=1) * weight / weight.sum(1, keepdim=True)
    columns = functional.log_softmax(similarity, dim=0) * weight / weight.sum(0, keepdim=True)
    return -0.5 * (rows.sum(1).mean() + columns.sum(0).mean())


def sigmoid_loss(similarity: Tensor, positive: Tensor) -> Tensor:
    """Return the binary cross-entropy of every pair, summed per spectrum and averaged.

    Arguments are those of `info_nce`; the logits include a bias (Zhai et al. 2023,
    arXiv:2303.15343).
    """
    sign = torch.where(positive, 1.0, -1.0)
    return -functional.logsigmoid(sign * similarity).sum(1).mean()


LOSSES = {"infonce": info_nce, "sigmoid": sigmoid_loss}
"""Each loss by its name in the settings."""


def gaussian_nll(mean: Tensor, log_width: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Return minus the mean log density of known values, which are normal; 0 if none is known."""
    weight = known.to(mean.dtype)
    nats = log_width + 0.5 * ((truth - mean) * torch.exp(-log_width)) ** 2
    return (nats * weight).sum() / weight.sum().clamp(min=1.0)


def cholesky_nll(mean: Tensor, precision_factor: Tensor, truth: Tensor) -> Tensor:
    """Return minus the mean log density per element of vectors (n, k) under normal distributions.

    `precision_factor` (n, k, k) is lower triangular with a positive diagonal: the precision is
    L L^T.
    """
    # (x - m)^T L L^T (x - m) = |L^T (x - m)|^2 and ln|L L^T| / 2 = sum ln L_ii.
    residual = torch.einsum("nji,nj->ni", precision_factor, truth - mean)
    log_diagonal = torch.diagonal(precision_factor, dim1=1, dim2=2).log().sum(1)
    return (0.5 * (residual**2).sum(1) - log_diagonal).mean() / truth.shape[1]
