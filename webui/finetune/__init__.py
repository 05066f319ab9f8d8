"""What the Fine-tune tab is made of: datasets (what was dropped, and how each is read)."""
