"""The method itself, in torch, numpy and cv2 alone: it knows no host."""
