"""Images and their labels: layouts → samples; files → pixels, masks and regions of interest."""
