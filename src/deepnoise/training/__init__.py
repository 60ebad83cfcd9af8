"""The mean teacher: network, views, losses, the loop. Needs torch; nothing else of the project imports it at start."""

import os

# Read when torch loads its thread pool. Threads that wait by spinning take the processor from one another: two runs on
# two cores train at a fiftieth of the speed of one; with waiting threads asleep, at half. A lone run is as fast either way.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
