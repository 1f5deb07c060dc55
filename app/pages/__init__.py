"""One file a page: reads values, draws, calls one function a button."""
