"""The embedded model: a small network with Stable Diffusion 1's architecture, in LDM key layout."""
