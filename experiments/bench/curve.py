"""Dice against the number of iterations, on the tuning fold: where the reference has reached its plateau."""

from __future__ import annotations

from collections import defaultdict

from experiments.bench.arms import ARMS, Set


def show(rows: list[dict], kind: Set) -> None:
    """Prints the table of all tuning rows."""
    print("\n".join(lines(rows, kind.rare)))


def lines(rows: list[dict], rare: str) -> list[str]:
    """A line for each number of source patients and arm, a column for each number of iterations; Dice of the class.

    Arms that another version made, and this one does not know, come last.
    """
    cells: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        key = row["row"]
        cells[key["number"], key["arm"]][key["iterations"]].append(row["figures"][rare]["dice"])
    lengths = sorted({row["row"]["iterations"] for row in rows})
    head = ["source patients", "arm", *map(str, lengths)]
    table = [head, ["---"] * len(head)]
    order = {arm: position for position, arm in enumerate([*ARMS, *sorted({arm for _, arm in cells} - set(ARMS))])}
    for number, arm in sorted(cells, key=lambda key: (key[0] == "all", len(key[0]), key[0], order[key[1]])):
        of_lengths = [cells[number, arm][length] for length in lengths]
        table.append([number, arm, *(f"{sum(v) / len(v):.3f}" if v else "–" for v in of_lengths)])
    return [f"| {' | '.join(row)} |" for row in table]
