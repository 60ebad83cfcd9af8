"""From raw tables and images to validated wells, sites and folds."""
