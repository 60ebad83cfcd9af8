"""What each step of the method adds: networks trained and read in different ways, on one split with the same seeds."""
