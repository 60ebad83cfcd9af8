"""From a trained model to scores of sites and wells."""
