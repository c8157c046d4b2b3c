"""What names, codes and phrases of volunteers look like. Pure."""

import re
import unicodedata

from legion.errors import NameUnusable

SHORTEST, LONGEST = 3, 24  # characters of a nickname
LONGEST_TEAM = 40
LONGEST_ABOUT = 400
CODE_DIGITS = 8
CODE_S = 600.0  # that a code to link a device is good for
SIGN_IN_S = 300.0  # the same of a link that signs in
# Names that would be taken for the server's own voice, or that addresses of pages use.
RESERVED = frozenset(
    {
        "admin",
        "administrator",
        "anonymous",
        "legion",
        "moderator",
        "nobody",
        "official",
        "operator",
        "root",
        "search",
        "server",
    }
    | {"me", "new", "system", "team", "teams", "volunteer", "volunteers", "device", "devices"}
)
_BETWEEN = re.compile(r"[-_.]")


def nickname(given: str) -> tuple[str, str]:
    """A nickname as it is shown, and as two of them are compared. NameUnusable."""
    name = unicodedata.normalize("NFKC", given).strip()
    if not SHORTEST <= len(name) <= LONGEST:
        raise NameUnusable(f"a nickname has {SHORTEST} to {LONGEST} characters, this one {len(name)}")
    parts = _BETWEEN.split(name)
    wrong = sorted({character for part in parts for character in part if not character.isalnum()})
    if wrong:
        raise NameUnusable(f"a nickname has letters, digits and - _ . and not {wrong[0]!r}")
    if not all(parts):
        raise NameUnusable("a nickname has - _ . only between letters and digits, one at a time")
    key = folded(name)
    if key.replace("-", "").replace("_", "").replace(".", "") in RESERVED:
        raise NameUnusable(f"the name {name} is the server's own", hint="Choose another one.")
    return name, key


def team_name(given: str) -> tuple[str, str]:
    """The same of a team's name, which may have spaces."""
    name = " ".join(unicodedata.normalize("NFKC", given).split())
    if not SHORTEST <= len(name) <= LONGEST_TEAM or not name.isprintable():
        raise NameUnusable(
            f"a team's name has {SHORTEST} to {LONGEST_TEAM} printable characters",
            hint="Choose a shorter or a longer one.",
        )
    return name, folded(name)


def folded(name: str) -> str:
    """Equal for names that a reader takes for the same: Unicode TR 36, 2.10, in its simplest form."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def about(given: str) -> str:
    """One line of a team's own words."""
    text = " ".join(given.split())
    if len(text) > LONGEST_ABOUT or not text.isprintable():
        raise NameUnusable(f"a team says at most {LONGEST_ABOUT} printable characters of itself", hint="Say less.")
    return text
