"""Retrieval: what documents in the prompt do to the answer, where they help and where they conflict."""

from dashboard.phenomena.page import phenomenon

phenomenon("retrieval")
