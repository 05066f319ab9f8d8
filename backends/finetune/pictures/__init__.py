"""A dataset of pictures with captions, as a training reads it.

files.py      the files of a folder or a ZIP, hostile ones refused, and the sha256 of all
captions.py   which picture has which caption: metadata.jsonl, a .txt beside it, or its name
reading.py    every picture at one size in one tensor; what cannot be read is named, left out
"""
