"""Why a server was not reached, in words: httpx names the class of its error only, where it names anything."""

import httpx

REFUSED = "All connection attempts failed"


def why(error: httpx.TransportError) -> str:
    """What follows "cannot be reached: "."""
    match error:
        case httpx.ConnectTimeout():
            return "nothing answers there"
        case httpx.PoolTimeout():
            return "every connection to it is in use"
        case httpx.TimeoutException():
            return "it has stopped answering"
    text = str(error)
    if text == REFUSED:
        return "no connection was accepted"
    return text or "the connection broke"
