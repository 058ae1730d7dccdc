"""Measure the quality of latents against truth, labels, baselines and published figures."""
