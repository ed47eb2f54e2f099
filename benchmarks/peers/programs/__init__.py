"""One program for each engine, run in that engine's environment: of ours it imports what needs no more."""
