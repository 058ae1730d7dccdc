"""Describe single spectra: fluxes, physics, classes, goodness of fit, neighbors and cautions."""
