"""Learning a character from one picture. A WebUI's own process takes only `character` and `tokens` of it; the rest needs diffusers."""
