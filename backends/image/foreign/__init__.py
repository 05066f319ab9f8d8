"""Recipes that other programs wrote into their pictures: a reader for each, and where they stand.

Every reader takes texts and returns one dict in the shape of `backends/image/recipe.py`, plus
"source" (whose it is) and "unknown" (what Werkbank has no setting for). None ever raises for what
is wrong in them, and none decodes a pixel.
"""
