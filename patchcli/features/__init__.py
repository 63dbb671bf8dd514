"""f_big and f_small: the patch encoders, and their features for every patch of an image."""
