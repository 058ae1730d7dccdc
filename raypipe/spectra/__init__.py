"""Put spectra and responses on the model's grid, and read and write their tables."""
