"""What the vision service does with the embedded model, and with a tower of the released size."""
