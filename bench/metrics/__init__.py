"""What is measured and how: pure functions on tensors, one value per case; `bootstrap` turns cases into a number with an interval."""
