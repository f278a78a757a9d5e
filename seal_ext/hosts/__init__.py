"""One adapter per world; each gives a run the same few verbs."""
