"""Fit physical emission models to batches of spectra."""

from raypipe.fits.columns import add_fits, fit_columns
from raypipe.fits.fit import Fit, fit_model
from raypipe.fits.models import MODELS

__all__ = ["MODELS", "Fit", "add_fits", "fit_columns", "fit_model"]
