"""What a report consists of. A report is a page with sections, and a section is a sequence of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

State = Literal["good", "look", "bad", "unknown"]


@dataclass(frozen=True)
class Light:
    """A verdict on the whole: what was asked, the answer, and in one sentence why.

    Attributes:
        state: ``good``, ``look`` (look at it before you go on), ``bad`` or ``unknown`` (it could not be judged).
        title: what was asked, in a few words.
        text: the answer.
    """

    state: State
    title: str
    text: str


@dataclass(frozen=True)
class Lights:
    """The verdicts of a page, the worst ones first."""

    lights: Sequence[Light]

    def __post_init__(self) -> None:
        order: list[State] = ["bad", "look", "unknown", "good"]
        object.__setattr__(self, "lights", sorted(self.lights, key=lambda light: order.index(light.state)))


@dataclass(frozen=True)
class Text:
    """A paragraph; ``fine`` sets it in small print."""

    text: str
    fine: bool = False


@dataclass(frozen=True)
class Value:
    """A cell of a table that is sorted by a number and not by its text."""

    number: float | None
    text: str


Cell: TypeAlias = "str | Value"


@dataclass(frozen=True)
class Table:
    """A table whose rows can be sorted by any column.

    Attributes:
        columns: headings, with units.
        rows: as many cells each as there are columns.
        caption: what the table shows.
        folded: show the caption alone until someone clicks on it, as for a table of hundreds of rows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing as SVG (``pages.charts``), and what it shows, for those who cannot see it too."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Code:
    """Lines to copy into a terminal or a manuscript; ``prose`` wraps them."""

    text: str
    prose: bool = False


@dataclass(frozen=True)
class Outline:
    """The outline of a class in a picture.

    Attributes:
        name: of the class.
        colour: as ``#RRGGBB``.
        path: SVG path in pixels of the picture.
        dashed: draw it dashed.
    """

    name: str
    colour: str
    path: str
    dashed: bool = False


@dataclass(frozen=True)
class Picture:
    """An image that can be enlarged.

    Attributes:
        caption: what it shows, in a few words.
        views: name of a view (a window, or the state before) → PNG as a data URI; all of the same size.
        width: of the views, in pixels.
        height: of the views, in pixels.
        aspect: height of a pixel divided by its width.
        outlines: of the classes.
        millimetres: width of a pixel in mm, for a scale bar; None if it is not known.
        sides: letters at the left and the right edge, such as ``("R", "L")`` in a radiological view; empty if unknown.
        identifier: of the case, if a reader may exclude it; empty otherwise.
        note: a second line below the caption.
    """

    caption: str
    views: dict[str, str]
    width: int
    height: int
    aspect: float = 1.0
    outlines: Sequence[Outline] = ()
    millimetres: float | None = None
    sides: tuple[str, str] | tuple[()] = ()
    identifier: str = ""
    note: str = ""

    @property
    def bar(self) -> tuple[float, str] | None:
        """Length of the scale bar in pixels, and its label: about a fifth of the width, of a round number of mm."""
        if not self.millimetres:
            return None
        wide = self.width * self.millimetres / 5
        length = max((n for n in (1, 2, 5, 10, 20, 50, 100) if n <= wide), default=1)
        return length / self.millimetres, f"{length} mm"


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side below a heading; ``columns`` of them, each with a heading of its own."""

    title: str
    columns: Sequence[tuple[str, Sequence[Picture]]]

    @property
    def pictures(self) -> list[Picture]:
        """All pictures, column by column."""
        return [picture for _, pictures in self.columns for picture in pictures]


Block: TypeAlias = "Lights | Text | Table | Chart | Code | Gallery"


@dataclass(frozen=True)
class Section:
    """Blocks below a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: its heading.
        subtitle: one line: what, when, by which version.
        sections: in order.
        exclude: words below the form that lists the cases that a reader excludes; empty if there is no such form.
        classes: class → colour, for the legend of all pictures.
        answers: from which a reader chooses one for each picture with an identifier, and saves them; empty if nothing
            is asked.
        outlined: show the outlines until a reader hides them.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    exclude: str = ""
    classes: dict[str, str] = field(default_factory=dict)
    answers: Sequence[str] = ()
    outlined: bool = True

    @property
    def pictures(self) -> list[Picture]:
        """All pictures of all galleries."""
        return [p for s in self.sections for b in s.blocks if isinstance(b, Gallery) for p in b.pictures]

    @property
    def views(self) -> list[str]:
        """The names of all views, in the order in which pictures have them."""
        return list(dict.fromkeys(view for picture in self.pictures for view in picture.views))
