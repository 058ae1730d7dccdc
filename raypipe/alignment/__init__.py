"""Align spectra with a second view of the same sources: views, heads, losses, and their bundle."""
