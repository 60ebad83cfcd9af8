"""Statistics that take technical brightness out of an image, and the intensity features they are seen by."""
