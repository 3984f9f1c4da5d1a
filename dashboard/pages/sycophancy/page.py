"""Sycophancy: whether a model says what its user wants to hear, and where inside that is decided."""

from dashboard.phenomena.page import phenomenon

phenomenon("sycophancy")
