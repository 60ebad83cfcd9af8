"""Dataset classes: the only code that knows a path or a file format."""
