"""What a window asks of the agent about the volunteer's account, and what it is told. See `messages`."""

from typing import Annotated, Literal

from pydantic import Field

from legion.accounts import AccountView, Nickname
from legion.messages import Message


class GetAccount(Message):
    kind: Literal["account"] = "account"


class ClaimName(Message):
    """Answered with the recovery phrase, as NewPhrase is."""

    kind: Literal["claim_name"] = "claim_name"
    nickname: Nickname


class LinkAccount(Message):
    """`secret`: a code of another computer, or the recovery phrase."""

    kind: Literal["link_account"] = "link_account"
    secret: Annotated[str, Field(min_length=8, max_length=200)]


class NewPhrase(Message):
    """The one before is worth nothing any more."""

    kind: Literal["new_phrase"] = "new_phrase"


class NewCode(Message):
    """That links another computer."""

    kind: Literal["new_code"] = "new_code"


class NewSignIn(Message):
    kind: Literal["new_sign_in"] = "new_sign_in"


AccountRequest = GetAccount | ClaimName | LinkAccount | NewPhrase | NewCode | NewSignIn


class AccountIs(Message):
    """`phrase`: a new recovery phrase, which nobody can show again."""

    kind: Literal["account_is"] = "account_is"
    account: AccountView
    phrase: str | None = None


class CodeIs(Message):
    """Until `expires_at`, s since 1970."""

    kind: Literal["code_is"] = "code_is"
    code: str
    expires_at: float


class SignInIs(Message):
    """Opens the server's pages, signed in; good once."""

    kind: Literal["sign_in_is"] = "sign_in_is"
    url: str


AccountAnswer = AccountIs | CodeIs | SignInIs
