"""The plot: held-out loss against tokens and against virtual time."""

import io
from collections.abc import Mapping

from matplotlib.figure import Figure

from legion_server.simulate.course import Course

SIZE = (10.0, 4.0)  # inches
DOTS_PER_INCH = 120


def png(courses: Mapping[str, Course], title: str) -> bytes:
    """The same picture for the same runs: no dates in it."""
    figure = Figure(figsize=SIZE, layout="constrained")
    by_tokens, by_time = figure.subplots(1, 2, sharey=True)
    for name, course in courses.items():
        losses = [point.loss for point in course.points]
        by_tokens.plot([point.tokens for point in course.points], losses, marker=".", label=name)
        by_time.plot([point.time_s for point in course.points], losses, marker=".", label=name)
    by_tokens.set(xlabel="tokens", ylabel="held-out loss, nats per token")
    by_time.set(xlabel="virtual time, s")
    for axes in (by_tokens, by_time):
        axes.grid(alpha=0.3)
    by_tokens.legend()
    figure.suptitle(title, fontsize="medium")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return picture.getvalue()
