"""What befalls a run on purpose, one module a kind, one function a scenario; each gives its rows."""
