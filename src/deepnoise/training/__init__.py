"""The mean teacher: network, views, losses, the loop. Needs torch; nothing else of the project imports it at start."""

import os

# Read by GNU OpenMP when torch is loaded: how long a waiting thread spins before it sleeps. With its default two runs on
# two cores take the processor from one another and train at a fiftieth of the speed of one; with this, at half.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
