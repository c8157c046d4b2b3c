"""How the agent reaches its window, in its own process or attached to it. Without Qt."""

from collections.abc import Callable

from legion.errors import Refused


class Doorbell:
    """The desk (`Desk.show`) or the socket rings, the app answers. Refused while nobody does."""

    def __init__(self) -> None:
        self._answer: Callable[[str | None], None] | None = None

    def answered_by(self, answer: Callable[[str | None], None] | None) -> None:
        """`answer` gets an invite, or None when only the window is wanted."""
        self._answer = answer

    def ring(self, invite: str | None) -> None:
        if self._answer is None:
            raise Refused("this agent has no window", hint="Start 'legion-client': it opens one.")
        self._answer(invite)
