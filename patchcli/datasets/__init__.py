"""Images and their labels: layouts → samples; files → pixels, masks and regions of interest.

A new layout is a file in layouts/ and a line in LAYOUTS. Nothing heavy is imported, so that the command line can offer the
names.
"""

# The layouts by name: a module of layouts/ and the object in it. They are tried in this order; where two fit, the narrower one
# comes first: mvtec2, loco and btad are mvtec too, all folders are plain.
LAYOUTS = {
    "manifest": ("tables", "MANIFEST"),
    "mvtec2": ("mvtec", "MVTEC2"),
    "loco": ("mvtec", "LOCO"),
    "btad": ("mvtec", "BTAD"),
    "mvtec": ("mvtec", "MVTEC"),
    "visa": ("tables", "VISA"),
    "ksdd2": ("kolektor", "KSDD2"),
    "ksdd": ("kolektor", "KSDD"),
    "folders": ("folders", "FOLDERS"),
    "plain": ("folders", "PLAIN"),
}
