"""The measurement: every method on the same characters, poses, prompts and noise, against the known truth."""
