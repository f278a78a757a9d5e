"""The studio: running the embedded model without a WebUI."""
