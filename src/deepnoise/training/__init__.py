"""The mean teacher: views, losses and the two stages of training. Needs torch; nothing else of the project imports it at start-up."""
