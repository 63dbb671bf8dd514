"""The memory bank (Algorithm 1, lines 10 to 17): built, thinned, paged and searched."""
