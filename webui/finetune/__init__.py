"""What the Fine-tune tab is made of.

datasets.py   what was dropped, and how each is read and repaired: all on the disk
looking.py    the dataset doctor's worker, and what it says, as it says it
saving_panel.py, validation_panel.py   the repaired set as a file; the rows measured, not learned
plan.py       which models can be trained, a training's settings with reasons, what it will take
after.py      what follows a training: chat with it, against its base, save, merge
in_use.py     what must not be deleted now; merges.py the merges under way
view.py       all of it as HTML
"""
