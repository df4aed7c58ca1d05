"""What the benchmarks share: arguments, progress, Markdown tables and pictures."""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import optuna
from choreographer.browsers.chromium import Chromium
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from plotly import graph_objects as go

T = TypeVar("T")

INK: Final = "#1f2937"
GRID: Final = "#e5e7eb"
# Wong, "Color blindness" (2011), without its yellow, which a white page swallows.
COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES: Final = ("solid", "dash", "longdash")
DOTS: Final = ("dot", "dashdot", "longdashdot")  # of those that ours are compared with
WIDTH: Final = 960  # pixels


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the module's text as it is written, and takes `--output`."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument(
        "--output",
        type=picture_path,
        metavar="FILE",
        help="picture to write; .html needs plotly, .svg and .png need kaleido and a Chrome too",
    )
    return found


def add_samplers(
    to: argparse.ArgumentParser, names: Iterable[str], default: Iterable[str] | None = None
) -> None:
    """Add `--samplers`: some of the names, by default those of `default`, or all."""
    known = list(names)
    to.add_argument(
        "--samplers",
        nargs="+",
        choices=known,
        default=known if default is None else list(default),
        metavar="NAME",
        help="rows, some of: " + "; ".join(name.replace("%", "%%") for name in known),
    )


def positive(text: str) -> int:
    """An integer above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} given, expected a number above 0")
    return number


def picture_path(text: str) -> Path:
    """A path whose suffix names a kind of picture that can be written here, for argparse."""
    path = Path(text)
    if path.suffix not in (".html", ".svg", ".png"):
        raise argparse.ArgumentTypeError(f"{text} given, expected a .html, .svg or .png file")
    # Found out now: hours of measurements may come before the picture.
    if path.suffix != ".html" and Chromium.find_browser(skip_local=False) is None:
        raise argparse.ArgumentTypeError(
            f"{text} needs Chrome or Chromium, and none is found; install one (Debian: apt-get "
            "install chromium), or give a .html file"
        )
    return path


def quiet() -> None:
    """Keep Optuna's log and its notes on experimental settings out of the tables."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def progress(items: Sequence[T], what: str) -> Iterable[T]:
    """The items, with a bar on standard error while they are worked through."""
    bar: Iterable[T] = tqdm(items, desc=what, leave=False)
    return bar


def bar(total: int, what: str) -> tqdm[None]:
    """A bar on standard error, to update by hand."""
    return tqdm(total=total, desc=what, leave=False)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, numbers to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(title: str, table: str) -> None:
    """Print a table under its title, at once: the next one may take minutes."""
    print(f"{title}\n\n{table}\n", flush=True)


def line_style(position: int, *, peer: bool = False) -> dict[str, Any]:
    """Color and dashes of the line number `position` of its kind, as plotly takes them."""
    turn, color = divmod(position, len(COLORS))
    dashes = DOTS if peer else DASHES
    return {"color": COLORS[color], "dash": dashes[turn % len(dashes)], "width": 2}


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_title: str,
    y_title: str,
    log_axes: bool = False,
    markers: Iterable[str] = (),
    peers: Iterable[str] = (),
) -> go.Figure:
    """One panel with a line a name.

    Args:
        series: Horizontal and vertical coordinates by name.
        title: Title of the picture.
        x_title: Title of the horizontal axis, with its unit.
        y_title: Title of the vertical axis, with its unit.
        log_axes: Whether both axes are logarithmic.
        markers: Names whose points are measured singly and drawn as such.
        peers: Names that ours are compared with, dotted.
    """
    from plotly import graph_objects as go

    figure = go.Figure()
    single, dotted = set(markers), set(peers)
    count = {True: itertools.count(), False: itertools.count()}
    for name, (x, y) in series.items():
        peer = name in dotted
        figure.add_scatter(
            x=list(x),
            y=list(y),
            name=name,
            mode="lines+markers" if name in single else "lines",
            line=line_style(next(count[peer]), peer=peer),
        )
    kind = "log" if log_axes else "linear"
    figure.update_xaxes(title=x_title, type=kind)
    figure.update_yaxes(title=y_title, type=kind)
    # A legend that is higher than the picture would be cut off.
    return style(figure, title=title, height=max(520, 23 * len(series) + 140))


def style(figure: go.Figure, *, title: str, height: int) -> go.Figure:
    """Apply the common layout, in place, and return the figure."""
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0, "xref": "paper"},
        width=WIDTH,
        height=height,
        font={"family": "Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        margin={"l": 70, "r": 20, "t": 60, "b": 60},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=GRID, ticks="outside")
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor=GRID, ticks="outside")
    return figure


def save(figure: go.Figure, path: Path) -> None:
    """Write a picture: a page that loads plotly from its site, or a still one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".html":
        figure.write_html(path, include_plotlyjs="cdn")
    else:
        figure.write_image(path, scale=1.5 if path.suffix == ".png" else 1)
