"""What every page may use."""

from typing import NamedTuple

from legion_client.paths import Home
from legion_client.ui.actions import Actions
from legion_client.ui.conversation import Conversation
from legion_client.ui.memory import Memory
from legion_client.ui.theme import Theme
from legion_client.ui.words import Words


class Tools(NamedTuple):
    """Made once by the app."""

    actions: Actions
    conversation: Conversation
    words: Words
    theme: Theme
    memory: Memory
    home: Home
