"""Retrieval: what documents in the prompt do to the answer, where they help and where they conflict."""

from dashboard.parts.phenomena.shell import phenomenon

phenomenon("retrieval")
