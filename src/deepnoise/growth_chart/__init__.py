"""What each step of the method adds: arms, each a network and a way to read it, on one split with the same seeds."""
