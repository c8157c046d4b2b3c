"""A volunteer's account, by a device that is linked to it: name, devices, what is known, being forgotten."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, status

from legion.accounts import (
    AccountChange,
    AccountView,
    ClaimRequest,
    DataRecord,
    ForgetRequest,
    LinkCode,
    LinkRequest,
    RecoveryReply,
    SignInLink,
)
from legion.errors import SecretUnknown
from legion.ids import WorkerId
from legion_server.api.deps import AWorker, BackendDep, address_of
from legion_server.api.problems import answers
from legion_server.backend import Backend

router = APIRouter(tags=["accounts"])

DeviceNumber = Annotated[int, Path(ge=1, le=2**31 - 1, description="The device's public number.")]


@router.get("/account", responses=answers(403))
async def show(backend: BackendDep, worker: AWorker) -> AccountView:
    """The device's own number and credit, and its volunteer's, if it has one."""
    return await backend.accounts.view(worker)


@router.post("/account", status_code=status.HTTP_201_CREATED, responses=answers(403, 409))
async def claim(body: ClaimRequest, backend: BackendDep, worker: AWorker) -> RecoveryReply:
    """Claim a nickname for what this device has done and will do. The recovery phrase is shown once."""
    return await backend.accounts.claim(worker, body)


@router.patch("/account", responses=answers(403, 404, 409))
async def change(body: AccountChange, backend: BackendDep, worker: AWorker) -> AccountView:
    """Another nickname, or where it is shown."""
    await backend.accounts.change(await backend.accounts.of_worker(worker), body)
    return await backend.accounts.view(worker)


@router.get("/account/data", responses=answers(403, 404))
async def data(backend: BackendDep, worker: AWorker) -> DataRecord:
    """All that the server knows of the account: devices with what they said of themselves, team, credit, sessions."""
    return await backend.accounts.known(await backend.accounts.of_worker(worker), backend.coordinator.state.workers)


@router.post("/account/forget", status_code=status.HTTP_204_NO_CONTENT, responses=answers(403, 404))
async def forget(body: ForgetRequest, backend: BackendDep, worker: AWorker) -> Response:
    """Delete the account for ever. Lines of the ledger stay, by device number.

    Its devices go on as nobody's; with `devices` their enrolments end, and what they said of themselves is deleted too.
    """
    devices = await backend.accounts.forget(await backend.accounts.of_worker(worker), body.nickname)
    if body.devices:
        await backend.coordinator.erase(devices)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.post("/account/link-code", status_code=status.HTTP_201_CREATED, responses=answers(403, 404))
async def link_code(backend: BackendDep, worker: AWorker) -> LinkCode:
    """A code of 8 digits, good once and for 10 minutes, that links another device to this one's account."""
    return await backend.accounts.link_code(await backend.accounts.of_worker(worker))


@router.post("/account/link", responses=answers(403, 404))
async def link(request: Request, body: LinkRequest, backend: BackendDep, worker: AWorker) -> AccountView:
    """Link this device to the account that the code, or the recovery phrase, is of."""
    await _guessing(request, backend, worker, body.secret)
    return await backend.accounts.view(worker)


@router.post("/account/recovery", responses=answers(403, 404))
async def recovery(backend: BackendDep, worker: AWorker) -> RecoveryReply:
    """Another recovery phrase; the one before is worth nothing any more."""
    phrase = await backend.accounts.new_phrase(await backend.accounts.of_worker(worker))
    return RecoveryReply(account=await backend.accounts.view(worker), recovery_phrase=phrase)


@router.delete("/account/devices/{number}", responses=answers(403, 404))
async def unlink(number: DeviceNumber, backend: BackendDep, worker: AWorker) -> AccountView:
    """A device is nobody's from now on, and earns for nobody; what it earned stays with the account."""
    volunteer = await backend.accounts.of_worker(worker)
    await backend.accounts.unlink(volunteer, number)
    return await backend.accounts.view(worker)


@router.post("/account/sign-in", status_code=status.HTTP_201_CREATED, responses=answers(403, 404))
async def sign_in(request: Request, backend: BackendDep, worker: AWorker) -> SignInLink:
    """A link to the web pages, signed in; good once and for 5 minutes."""
    token, expires_at = await backend.accounts.sign_in_token(await backend.accounts.of_worker(worker))
    return SignInLink(url=f"{str(request.base_url).rstrip('/')}/sign-in/{token}", expires_at=expires_at)


async def _guessing(request: Request, backend: Backend, worker: WorkerId, secret: str) -> None:
    """Eight digits could be guessed: wrong ones count against the address and against the device."""
    who = (address_of(request), f"link:{worker}")
    for each in who:
        backend.failures.check(each, backend.clock())
    try:
        await backend.accounts.link(worker, secret)
    except SecretUnknown:
        for each in who:
            backend.failures.failed(each, backend.clock())
        raise
