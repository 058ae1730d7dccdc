"""Find structure among latents: mixtures that use the error of each row, and clusters."""
