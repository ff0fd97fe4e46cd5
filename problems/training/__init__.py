"""Networks trained from scratch by forward passes."""
