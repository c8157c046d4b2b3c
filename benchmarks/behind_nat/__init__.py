"""Computers behind masquerading routers, and what passes between them."""
