"""Reasons that no sensor tells, for the policy. Pure."""

from legion.errors import LegionError
from legion_client.machine.notices import Coming
from legion_client.machine.reasons import Active, Reason
from legion_client.settings import SettingsFile


def beside_sensors(
    coming: Coming | None, file: SettingsFile, trouble: LegionError | None, crashes: int, *, finished: bool
) -> list[Active]:
    """`trouble`: after which no engine is started again by itself; `finished`: the round, as the volunteer asked."""
    known = []
    if coming is Coming.SHUTDOWN:
        known.append(Active(Reason.SHUTTING_DOWN))
    if file.problem:
        reason = Reason.SETTINGS_MISTAKE if file.usable else Reason.SETTINGS_UNUSABLE
        known.append(Active(reason, figures={"problem": file.problem}))
    if trouble is not None:
        known.append(Active(Reason.ENGINE_FAILED, figures={"times": crashes, "problem": str(trouble)}))
    if finished:
        known.append(Active(Reason.FINISHED))
    return known
