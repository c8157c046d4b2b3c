"""Texts of the window for translators; `texts` gathers them, `update` writes the .ts files."""
