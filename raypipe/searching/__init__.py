"""Search a latent catalog for look-alikes and for the strangest detections."""
