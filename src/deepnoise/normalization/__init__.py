"""Statistics that take technical brightness out of a picture, and the intensity features they are seen by."""
