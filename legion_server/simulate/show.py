"""`legion-server simulate` at work: the runs that were asked for, and what they say."""

from pathlib import Path

from rich.console import Console

from legion_server.simulate import report
from legion_server.simulate.course import Course
from legion_server.simulate.options import Options
from legion_server.simulate.plot import png
from legion_server.simulate.run import Simulation


def show(options: Options, folder: Path) -> None:
    """`folder`: for the prepared data, while it runs. LegionError."""
    simulation = Simulation(options, folder, report.say)
    courses: dict[str, Course] = {}
    if options.mode != "baseline":
        courses["distributed"] = simulation.distributed()
    if options.mode != "distributed":
        courses["baseline"] = simulation.baseline()
    console = Console()
    facts: dict[str, object] = {"parameters": simulation.parameters}
    console.print(report.runs_table(courses))
    if "distributed" in courses:
        course, steps = courses["distributed"], simulation.config.rounds.steps
        values = (options.parameters or simulation.parameters) / options.cluster_size
        found = report.bits(course, values, len(course.points))
        less = report.ratios(found, steps)
        console.print(report.bytes_table(course))
        console.print(report.ratios_table(found, less, steps))
        facts |= {"bits_per_parameter_and_round": found, "less_than_fp32_every_step": less}
    if options.report is not None:
        report.write(options.report, report.as_json(options, courses, facts))
    if options.plot is not None:
        report.write(options.plot, png(courses, simulation.title))
        console.print(f"plot in {options.plot}", soft_wrap=True)
