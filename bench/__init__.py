"""The bench: how the embedded model is made and measured (never imported by the extension)."""
