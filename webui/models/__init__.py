"""What the Models tab is made of: entries (what is listed), view (how it looks), routes, adding."""
