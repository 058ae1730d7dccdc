"""Simulate surveys of X-ray sources, with files like those of the Chandra Source Catalog."""

from raypipe.simulation.simulate import SimulationSummary, simulate
from raypipe.simulation.survey import Survey, draw_survey

__all__ = ["SimulationSummary", "Survey", "draw_survey", "simulate"]
