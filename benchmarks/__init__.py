"""Side-by-side runs against what a user would use instead. `python launch.py bench` runs them."""
