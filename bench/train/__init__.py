"""Training of the embedded model and the judge on the world's pictures."""
