"""The parts of ENAS: a controller that decides, what it learns from, and its alternation with shared weights.

The strategy itself is `jaxcompress.search.ENAS`, the alternation `jaxcompress.search.alternate`.
"""
