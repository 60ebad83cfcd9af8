"""From raw tables and pictures to validated wells, sites and folds."""
