"""Legion's core: what the client and the server share.

Nothing is re-exported, so `import legion` costs nothing.
"""

__version__ = "0.1.0"
