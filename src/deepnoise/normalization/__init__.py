"""Statistics that remove technical brightness from images, intensity features, and plate quality."""
