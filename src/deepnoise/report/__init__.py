"""The report: one page with the results of a screen, and what to distrust in them."""
