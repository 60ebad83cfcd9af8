"""Studies that search for better parameters, by the score of validation experiments."""
