"""What knowledge of the plate design adds to any table of well scores (method: section 6)."""
