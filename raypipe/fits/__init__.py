"""Fit physical emission models to batches of spectra."""
