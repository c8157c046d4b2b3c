"""All that a member has learned and no anchor holds yet, span by span; and how it survives a restart.

Invariant: work that entered anchors + work that waits = work done, as for one span (`contribution`). Over a restart
that holds as far as the log tells; where it does not tell, work is rather lost than counted twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from legion.codec.api import Floats
from legion.config import RoundsConfig
from legion.ids import ClusterId
from legion.layout import Bounds, Fragment
from legion.outer.contribution import Contributor, Waiting
from legion.rounds import RoundRecord, SpanRecord


@dataclass(frozen=True, slots=True)
class Former:
    """Which engine of this worker kept a state, and when."""

    cluster: ClusterId  # its own
    sent_as: ClusterId  # of the pending parts: its own, or that of an engine before it
    anchor: int
    final: bool  # it contributed nothing after this


class Outstanding:
    """Contributors of one member, and the rest of what waits: its local weights below its anchor."""

    def __init__(
        self,
        config: RoundsConfig,
        cluster: ClusterId,
        weights: Floats,
        anchor: Floats,
        fragments: Callable[[Bounds], Sequence[Fragment]],
    ) -> None:
        """`weights` are changed in place, `anchor` is only read; `fragments` of a span lie in both."""
        self._config = config
        self._cluster = cluster
        self._weights = weights
        self._anchor = anchor
        self._fragments = fragments
        self._contributors: dict[Bounds, Contributor] = {}
        self._sent_as = cluster  # of the pending parts
        self._former: Former | None = None  # whose state we go on with, until we enter

    def contributor(self, bounds: Bounds) -> Contributor:
        """Of a span, to make its next part with."""
        self._sent_as = self._cluster
        return self._of(bounds)

    def _of(self, bounds: Bounds) -> Contributor:
        if bounds not in self._contributors:
            numel = sum(len(fragment.flat) for fragment in self._fragments(bounds))
            self._contributors[bounds] = Contributor(numel, self._config.feedback, self._config.decay)
        return self._contributors[bounds]

    def settle(self, record: RoundRecord) -> list[Bounds]:
        """The round is in the anchor now; the spans that have our contribution."""
        included = []
        for (start, stop), span in zip(record.bounds, record.spans, strict=True):
            if self._settle(record.round, Bounds(start, stop), span):
                included.append(Bounds(start, stop))
        return included

    def _settle(self, round_number: int, bounds: Bounds, span: SpanRecord) -> bool:
        contributor = self._contributors.get(bounds)
        pending = contributor is not None and contributor.pending is not None
        if self._former is not None and not pending and span.inclusion(self._former.cluster) is not None:
            self._drop(bounds)  # it went on after it had kept this
        if contributor is None:
            return False
        inclusion = span.inclusion(self._sent_as)
        self._take_out(bounds, contributor.settle(round_number, inclusion.clip_scale if inclusion else None))
        return inclusion is not None

    def _take_out(self, bounds: Bounds, taken: Floats) -> None:
        """Of what waits in the local weights."""
        at = 0
        for fragment in self._fragments(bounds) if taken.size else ():
            target = self._weights[fragment.slice_offset :][: len(fragment.flat)]
            np.add(target, taken[at : at + target.size], out=target)
            at += target.size

    def _drop(self, bounds: Bounds) -> None:
        if bounds in self._contributors:
            self._contributors[bounds].give_up()
        for fragment in self._fragments(bounds):
            mine = slice(fragment.slice_offset, fragment.slice_offset + len(fragment.flat))
            self._weights[mine] = self._anchor[mine]

    # Over a restart.

    def state(self, anchor: int, *, final: bool) -> tuple[Former, Mapping[Bounds, Waiting]]:
        """What must survive it beside the weights; our own arrays, valid until the next step or border."""
        waiting = {bounds: contributor.state() for bounds, contributor in self._contributors.items()}
        return Former(self._cluster, self._sent_as, anchor, final), waiting

    def restore(
        self, former: Former, waiting: Mapping[Bounds, Waiting], anchor: int, missed: Sequence[RoundRecord]
    ) -> None:
        """Go on with what was kept. The weights differ from our anchor as they differed from the one of `former`.

        `missed`: what the log has of the rounds between that anchor and ours. A pending part is settled by its round's
        record, under the name that it was sent with. If its record is no longer kept, it counts as included. When the
        log has work which the engine that kept this state sent later, or may have had, then what waited here went
        with that, and is dropped.
        """
        self._former, self._sent_as = former, former.sent_as
        for bounds, state in waiting.items():
            self._of(bounds).restore(state)
        records = {record.round: record for record in missed}
        for number in range(former.anchor, anchor):
            if number in records:
                self.settle(records[number])
            else:
                self._settle_unknown(number, final=former.final)

    def take_over(self, waiting: Mapping[Bounds, Waiting], sent_as: ClusterId) -> None:
        """What waited at a restore point of this cluster, whose parts have its name; the weights are of that point."""
        self._sent_as = sent_as
        for bounds, state in waiting.items():
            self._of(bounds).restore(state)

    def _settle_unknown(self, round_number: int, *, final: bool) -> None:
        for bounds, contributor in self._contributors.items():
            self._take_out(bounds, contributor.settle(round_number, 1.0))
            if not final:
                contributor.give_up()
        if not final:
            np.copyto(self._weights, self._anchor)

    def entered(self) -> None:
        """No record will tell of what is still pending: its round begins anew, without those who were in it."""
        for bounds, contributor in self._contributors.items():
            if contributor.pending is not None:
                self._take_out(bounds, contributor.settle(contributor.pending.round, None))
        self._former = None
