"""Parts of the Interventions page."""
