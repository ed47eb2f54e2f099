"""The embedded default checkpoint (`nano/`) and the recipe that trains it (`recipe/`)."""
