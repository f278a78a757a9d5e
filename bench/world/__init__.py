"""The procedural world: characters, places and everything that is true of their pictures, from seeds alone."""

VERSION = 2  # changes with what a seed means; weights are of the world that they were trained on
