"""Continual learning: what later tasks take from earlier ones, and what replay and EWC save."""

from dashboard.parts.phenomena.shell import phenomenon

phenomenon("continual")
