"""Paddle operators of our own in C++, for what plain ones do slowly on CPU: never needed, only faster."""
