"""Scores of calls, each with its tier, and measurements of signal and technical noise in profiles."""
