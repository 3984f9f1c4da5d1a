"""Continual learning: what later tasks take from earlier ones, and what replay and EWC save."""

from dashboard.phenomena.page import phenomenon

phenomenon("continual")
