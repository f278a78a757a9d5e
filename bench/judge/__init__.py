"""A reader of the world's pictures: which part shows at each pixel, and what the subject is, wears and does."""
