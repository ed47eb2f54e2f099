"""The same work on this project and on what people would otherwise pick."""
