"""How good the latents are: against truth, labels, baselines and the published figures."""
