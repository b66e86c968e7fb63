"""Automations of Prefect, as code: tell a person about runs that fail or are degraded and about breakers that open, and
mark runs as crashed whose process is gone.

Like `flows.setup` they are declared and compared: what is missing is made, what differs is changed, nothing is deleted,
and one that a person has switched off stays off.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import Automation
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from backupiq.errors import ValidationError
from flows.environment import HEARTBEAT_SECONDS
from flows.guard import EVENTS
from flows.outcome import DEGRADED_EVENT
from flows.reach import api_errors
from flows.setup import Outcome, SetupItem

FLOWS = ("backup", "restore", "heal", "heal-lagging", "maintain-catalog")
"""The flows whose runs are told about, by name: others' on the same server are none of our business."""
LEFT_OUT = "no notification block is named: backupiq setup --notify TYPE/NAME"

_OUR_RUNS = {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}
_ENDS = ("Completed", "Failed", "TimedOut", "Cancelled", "Crashed")


@dataclass(frozen=True, slots=True)
class Notification:
    """What is told, and when. ``subject`` and ``body`` are Jinja templates that Prefect fills in."""

    name: str
    description: str
    trigger: EventTrigger
    subject: str
    body: str


def notifications() -> list[Notification]:
    """What people are told about."""
    runs = ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"})
    return [
        Notification(
            "BackupIQ: a run failed",
            "A backup, a restore or what runs by itself has failed, timed out or crashed.",
            _once(
                {"prefect.flow-run.Failed", "prefect.flow-run.TimedOut", "prefect.flow-run.Crashed"}, runs, _OUR_RUNS
            ),
            "BackupIQ: {{ flow_run.name }} {{ flow_run.state.name | lower }}",
            "{{ flow_run.name }} has {{ flow_run.state.name | lower }}: {{ flow_run.state.message }}\n"
            "What was stored is kept. {{ flow_run | ui_url or '' }}",
        ),
        Notification(
            "BackupIQ: a run is degraded",
            "A backup is complete, but not at every destination.",
            _once(
                {DEGRADED_EVENT}, ResourceSpecification.model_validate({"prefect.resource.id": "backupiq.run.*"}), {}
            ),
            "BackupIQ: not at every destination: {{ event.payload.lagging | join(', ') }}",
            "Snapshot {{ event.payload.snapshot }} is stored, but not at: {{ event.payload.lagging | join(', ') }}. "
            "The next run, or `backupiq heal`, brings them up to date.",
        ),
        Notification(
            "BackupIQ: a breaker opened",
            "A destination failed so often that it is left alone for a while.",
            _once(
                {EVENTS["open"]},
                ResourceSpecification.model_validate({"prefect.resource.id": "backupiq.breaker.*"}),
                {},
            ),
            "BackupIQ: {{ event.payload.destination }} is left alone",
            "{{ event.payload.destination }} failed too often and is left alone for "
            "{{ event.payload.cooldown | round | int }} seconds: {{ event.payload.reason }}",
        ),
    ]


def _once(expect: set[str], match: ResourceSpecification, related: dict[str, Any]) -> EventTrigger:
    return EventTrigger(
        expect=expect,
        match=match,
        match_related=ResourceSpecification.model_validate(related),
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )


def silent_seconds() -> int:
    """How long a run has to be silent before it counts as crashed: two and a half heartbeats."""
    return (get_current_settings().flows.heartbeat_frequency or HEARTBEAT_SECONDS) * 5 // 2


def crash_automation() -> AutomationCore:
    """Marks a run as crashed that has stopped saying that it lives. Runs that never said so are left alone."""
    seconds = silent_seconds()
    return AutomationCore(
        name="BackupIQ: mark crashed runs",
        description=f"A run that sent heartbeats has been silent for {seconds} seconds: its process is gone.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in _ENDS)},
            match=ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification.model_validate(_OUR_RUNS),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, name="Crashed", message="Its process is gone; the next run goes on from here."
            )
        ],
    )


async def apply_automations(webhook_block: str | None) -> list[SetupItem]:
    """Make or update the automations; what was done, in order.

    ``webhook_block``: a notification block as ``TYPE/NAME``, for example ``slack-webhook/ops`` or
    ``custom-webhook/ops``. Without one, those that notify stay as they are, and those that are missing are left out.
    ValidationError when there is no such block, OrchestrationError when Prefect's API does not answer.
    """
    with api_errors():
        async with get_client() as client:
            block = await _find_block(client, webhook_block) if webhook_block else None
            done = [await _apply(client, crash_automation())]
            for each in notifications():
                if block is not None:
                    done.append(await _apply(client, _notifying(each, block)))
                elif await _find(client, each.name) is not None:
                    done.append(SetupItem("automation", each.name, Outcome.UNCHANGED))
                else:
                    done.append(SetupItem("automation", each.name, Outcome.LEFT_OUT, reason=LEFT_OUT))
    return done


def _notifying(each: Notification, block: UUID) -> AutomationCore:
    action = SendNotification(block_document_id=block, subject=each.subject, body=each.body)
    return AutomationCore(name=each.name, description=each.description, trigger=each.trigger, actions=[action])


async def _find_block(client: PrefectClient, written: str) -> UUID:
    kind, _, name = written.partition("/")
    with contextlib.suppress(ObjectNotFound):
        block = await client.read_block_document_by_name(name, kind, include_secrets=False)
        capabilities = block.block_schema.capabilities if block.block_schema is not None else []
        if "notify" not in capabilities:
            raise ValidationError(f"The block {written} cannot notify anybody; name one of a notification type.")
        return block.id
    raise ValidationError(
        f"There is no block {written}. Write TYPE/NAME, for example slack-webhook/ops; make it in Prefect's UI first."
    )


async def _find(client: PrefectClient, name: str) -> Automation | None:
    """The automation of that name, the oldest where there are several."""
    found = await client.read_automations_by_name(name)
    return Automation.model_validate(found[0].model_dump()) if found else None


async def _apply(client: PrefectClient, wanted: AutomationCore) -> SetupItem:
    current = await _find(client, wanted.name)
    if current is None:
        await client.create_automation(wanted)
        return SetupItem("automation", wanted.name, Outcome.CREATED)
    if _essence(current) == _essence(wanted):
        return SetupItem("automation", wanted.name, Outcome.UNCHANGED)
    assert current.id is not None  # noqa: S101 - the API gave it
    await client.update_automation(current.id, wanted.model_copy(update={"enabled": current.enabled}))
    return SetupItem("automation", wanted.name, Outcome.UPDATED)


def _essence(automation: AutomationCore) -> dict[str, Any]:
    """What tells whether an automation is the one that is wanted; the server adds ids and sorts sets anew."""
    values = automation.trigger.model_dump(mode="json", exclude={"id"})
    for name in ("after", "expect", "for_each"):
        if name in values:
            values[name] = sorted(values[name])
    actions = [action.model_dump(mode="json", exclude_none=True) for action in automation.actions]
    return {"description": automation.description, "trigger": values, "actions": actions}
