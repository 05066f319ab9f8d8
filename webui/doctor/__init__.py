"""The doctor: what is installed, what the card can do, what is wrong, which command mends it.

Runs with the standard library alone, so that it still speaks where set-up failed; with the
dependencies installed it tells more. It changes nothing and opens no model. One file per section;
`report.py` puts them together.
"""
