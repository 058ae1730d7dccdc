"""Learn a space that spectra share with a second view of their sources, given as a table."""
