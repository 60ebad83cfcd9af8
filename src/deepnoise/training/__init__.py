"""The mean teacher: network, views, losses, the loop. Needs torch; nothing else of the project imports it at start."""
