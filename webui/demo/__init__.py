"""A chat shown to others: a second, separate app on its own port, and how its owner holds it.

Nothing of the workbench is in it. `share.py` is its life, `door.py` who gets in, `app.py` what a
visitor sees, `tunnel.py` the way in from outside, `panel.py` the owner's side.
"""
