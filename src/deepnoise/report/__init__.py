"""The report: one page that says what a screen tells, and what to distrust."""
