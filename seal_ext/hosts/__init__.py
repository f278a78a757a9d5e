"""One adapter for each program that SeAl runs in; each gives a run the same few methods."""
