"""Scores with their tiers, and probes for technical noise."""
