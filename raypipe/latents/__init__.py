"""Find structure among latents: mixtures that use the errors of the rows, and communities."""
