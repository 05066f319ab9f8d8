"""What the Images tab stands on besides the model: the gallery, and the queue of pictures."""
