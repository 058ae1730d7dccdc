"""Simulated surveys: sources, telescope, counts, and files as the Chandra Source Catalog has."""

from raypipe.simulation.simulate import SimulationSummary, simulate
from raypipe.simulation.survey import Survey, draw_survey

__all__ = ["SimulationSummary", "Survey", "draw_survey", "simulate"]
