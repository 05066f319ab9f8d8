"""What all tabs share: the server, the page, its panels, the set-up and the command line.

This file imports nothing: `webui.setup` and `webui.cli` run before anything is installed.
"""
