"""Compute emission models: spectral components, thermal plasma and interstellar absorption."""
