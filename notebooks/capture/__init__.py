"""What a cell needs from its notebook, and how that travels. Nothing here knows of IPython, a hub or a service."""
