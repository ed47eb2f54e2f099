"""The front: keeps conversations and media, and moves tiles from the vision tier to the language tier."""
