"""Generated stubs of the contract; regenerate with `make protos`."""
