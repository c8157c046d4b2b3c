"""What a window asks about the account, asked of the server. Whether training goes on or rests makes no difference."""

from legion.accounts import ClaimRequest
from legion.errors import Unusable
from legion_client.agent.accounts import Accounts
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.enrolment import Enrolment
from legion_client.control.accounts import (
    AccountAnswer,
    AccountIs,
    AccountRequest,
    ClaimName,
    CodeIs,
    GetAccount,
    LinkAccount,
    NewCode,
    NewPhrase,
    NewSignIn,
    SignInIs,
)


async def ask_account(known: Enrolment | None, request: AccountRequest) -> AccountAnswer:
    """Raises what the server refuses with; Unusable where none is joined."""
    if known is None:
        raise Unusable("this computer has joined no server yet", hint="Join one with an invite.")
    async with Coordinator(known.base_url, known.context, known.worker_id, known.token) as server:
        return await _ask(Accounts(server), request)


async def _ask(accounts: Accounts, request: AccountRequest) -> AccountAnswer:
    match request:
        case GetAccount():
            return AccountIs(account=await accounts.view())
        case LinkAccount(secret=secret):
            return AccountIs(account=await accounts.link(secret))
        case ClaimName(nickname=nickname):
            reply = await accounts.claim(ClaimRequest(nickname=nickname))
            return AccountIs(account=reply.account, phrase=reply.recovery_phrase)
        case NewPhrase():
            reply = await accounts.new_phrase()
            return AccountIs(account=reply.account, phrase=reply.recovery_phrase)
        case NewCode():
            code = await accounts.link_code()
            return CodeIs(code=code.code, expires_at=code.expires_at)
        case NewSignIn():
            return SignInIs(url=(await accounts.sign_in()).url)
