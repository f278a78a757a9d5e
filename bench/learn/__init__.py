"""`bench learn`: characters learned from one picture each, and drawn in new poses and places."""
