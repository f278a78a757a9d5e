"""What a picture costs: time and memory beside a plain one, on the embedded model and on networks of the true sizes."""
