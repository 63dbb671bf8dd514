"""f_big and f_small: the patch encoders, and their features for every patch of an image.

A new encoder is a file here and a line in CLASSES. Nothing heavy is imported, so that the command line can offer the names.
"""

# The names that recipes and stores give the encoders; each is a module here, with the class of this name.
TRAINED = {  # those that `train` makes
    "hybrid": "HybridEncoder",
    "hierarchical": "HierarchicalEncoder",
    "flat": "FlatEncoder",
    "fixed": "FixedEncoder",
}
CLASSES = {**TRAINED, "pretrained": "PretrainedEncoder"}
