"""Progress on the terminal, with an estimate of what is left; silent where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text


class Advance(Protocol):
    """What a stage calls as its work goes on."""

    def __call__(self, steps: float = 1, note: str = "") -> None:
        """Counts `steps` more of the total, and shows `note` (`loss 0.31`) beside the bar."""
        ...


@contextmanager
def track(
    title: str, total: float, unit: str = "steps", console: Console | None = None
) -> Iterator[Advance]:
    """A bar for one stage of `total` steps; a finished stage leaves one line with its time.

        with track("train", total=30, unit="epochs") as advance:
            for epoch in range(30):
                advance(note=f"loss {loss:.3f}")

    Where the standard output is no terminal nothing is written, whatever the environment says.
    """
    console = console or Console()
    note = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    progress = Progress(
        SpinnerColumn("dots", style="cyan", finished_text="[green]✓"),
        TextColumn("{task.description:<11}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(14, style="bright_black", complete_style="cyan", finished_style="green"),
        _Count(unit),
        _Time(),
        # The note alone may be cut where the terminal is narrow.
        TextColumn("{task.fields[note]}", style="bright_black", markup=False, table_column=note),
        console=console,
        expand=True,
        # `console.is_terminal` obeys FORCE_COLOR, which is about colours and not about bars.
        disable=not console.file.isatty(),
    )
    with progress:
        task = progress.add_task(title, total=total, note="")

        def advance(steps: float = 1, note: str = "") -> None:
            if note:
                progress.update(task, advance=steps, note=note)
            else:
                progress.update(task, advance=steps)

        yield advance


class _Count(ProgressColumn):
    """`12/30 epochs`."""

    def __init__(self, unit: str):
        super().__init__(Column(no_wrap=True))
        self._unit = unit

    def render(self, task: Task) -> Text:
        """The steps done and to do."""
        return Text(f"{task.completed:,.0f}/{task.total or 0:,.0f} {self._unit}")


class _Time(ProgressColumn):
    """`0:12, 0:31 left` while it runs, `0:43` at the end."""

    max_refresh = 0.5

    def __init__(self):
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """The time that has passed and the estimate of what is left."""
        passed = task.finished_time if task.finished else task.elapsed
        text = duration(passed or 0.0)
        if not task.finished and task.time_remaining is not None:
            text += f", {duration(task.time_remaining)} left"
        return Text(text, style="cyan")


def duration(seconds: float) -> str:
    """`0:07`, `12:05` or `3:04:05`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
