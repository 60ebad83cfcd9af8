"""The mean teacher: network, views, losses, the loop. Needs torch; nothing else of the project imports it at start."""

import os

# Read by GNU OpenMP when torch is loaded: how long a waiting thread spins before it sleeps. With its default two runs on
# two cores take the processor from one another and nearly stand still; a lone run is as fast either way.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
