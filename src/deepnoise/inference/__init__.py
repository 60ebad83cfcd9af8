"""Predictions of trained models: views, ensembles, and pooling of sites to wells."""
