"""Files that a person attaches, turned into text by a throw-away process (`reader.py`)."""
