"""The Diagnosis page."""
