"""What training and inference share: images of sites, the network, its devices, and trained models. Knows no stage above it."""

import os

# Read by GNU OpenMP when torch is loaded: how long a waiting thread spins before it sleeps. With its default, two runs on
# two cores take the processor from each other and nearly stop; a single run is as fast either way.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
