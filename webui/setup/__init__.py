"""What runs before anything is installed. Everything in here needs the standard library alone.

pins.py         what pyproject.toml asks for, and whether a Python has it
environment.py  the virtual environment beside launch.py: its stamp, its lock, its making
pip_run.py      one run of pip, told to a person line by line
install.py      which steps are missing, and doing them
talk.py         what it says to a person
start.py        launch.py's work: set up where needed, then hand over to webui.cli
handover.py     becoming another program
chromium.py     the browser that the tests drive
"""
