"""What people use, or could use, instead: each peer a small function on the same hooks, as faithful as its source describes."""
