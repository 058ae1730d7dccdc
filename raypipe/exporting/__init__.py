"""Export the latent catalog in the formats that other tools open."""
