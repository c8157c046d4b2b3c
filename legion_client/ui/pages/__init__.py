"""One module a page of the window; each is imported when it is first opened."""
