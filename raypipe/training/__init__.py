"""Train models on spectra with Ray Train."""
