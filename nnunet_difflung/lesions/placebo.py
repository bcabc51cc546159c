"""Plans placebo cases: outlines of lesions that are repainted as the normal lung that they are.

A painted region differs from its surroundings in noise, smoothness and edge, whatever is painted. If every painted
region is a lesion, a segmentation can learn that difference instead of the class, and every synthetic case also makes
the class more frequent. A placebo case has the same outlines, varied in the same way and painted by the same method,
but shows normal lung under the label of normal lung.

Where lesions follow real cases in their places, the outlines lie at the same places in the lung's coordinates as the
lesions of the case that they come from, so that the place tells no class either. Where hosts are chosen by their other
pathologies (``hosts``), a placebo's host holds the same ones as that of the case whose outlines it has.

Methods that paste real texture need some: normal lung of another training case, cut out in the lesion's outline and
moved in the same way as a lesion's texture (``pasting``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from nnunet_difflung.config import BalanceConfig
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.lesions.hosts import Hosts, profile, usable_hosts
from nnunet_difflung.lesions.lung import Lung, Site
from nnunet_difflung.lesions.masks import Lesion, Transform, cannot_fit, inside_image, spacing_ratio, warp, window_at
from nnunet_difflung.lesions.placement import find_place
from nnunet_difflung.lesions.plan import LungSource, Operation, Plan, PlannedCase, shares
from nnunet_difflung.lesions.real_places import FAR, most_alike
from nnunet_difflung.lesions.surroundings import real_lesion
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.runtime.progress import Tell, nobody

Place = tuple[int, int, int]

_STREAM = 807  # separates the random numbers of placebo cases from those of cases with lesions
_HOSTS = 5  # maximum number of hosts tried for a case
_SOURCES = 8  # maximum number of cases in which normal lung is sought for an outline
_SHRINK = 0.8  # scale factor for an outline that fits nowhere; applied up to three times, as to lesions
_KEPT_LABELS = 8  # label maps kept in memory


def number_of_placebos(cases: int, share: float) -> int:
    """How many placebo cases make up a share (0 to below 1) of all synthetic cases, of which ``cases`` have lesions."""
    return round(share / (1 - share) * cases)


def add_placebos(
    plan: Plan,
    cases: Sequence[CaseFacts],
    lesions: dict[str, list[Lesion]],
    roles: LabelRoles,
    config: BalanceConfig,
    fold: int | str,
    read_label: Callable[[str], np.ndarray],
    tell: Tell = nobody,
) -> None:
    """Adds placebo cases to a plan until they are the share ``config.placebo`` of its cases; 0 changes nothing.

    Each has the outlines of a case with lesions, in another host of the plan. They come on top of the bound on
    slices, which holds for the cases with lesions, so that these are the same with and without placebo cases.

    Args:
        plan: the finished plan of the cases with lesions; its cases, ``after`` and notes are extended.
        cases: training cases of the fold, of which hosts and normal lung are taken.
        lesions: pathology → lesions of the same cases, sorted by case and component.
        roles: of the labels.
        config: share of placebo cases, placement, hosts, and seed.
        fold: seeds the choice together with the seed of ``config``.
        read_label: case id → (z, y, x) label values.
        tell: gets the share of the placebo cases that is planned.
    """
    models = plan.with_lesions
    wanted = number_of_placebos(len(models), config.placebo)
    if not wanted:
        return
    follows = config.placement == "real"
    hosts = Hosts(usable_hosts(cases, roles), roles) if config.hosts == "alike" else None
    planner = _PlaceboPlanner(plan, cases, lesions, roles, lru_cache(_KEPT_LABELS)(read_label), follows, hosts)
    key = [config.seed, 1_000_003 if fold == "all" else int(fold), _STREAM]
    order = np.random.default_rng(key).permutation(len(models))
    for index in range(wanted):
        tell(index / wanted)
        case = planner.placebo(models[order[index % len(models)]], np.random.default_rng([*key, index]))
        if case is not None:
            plan.cases.append(case)
            for name in roles.lung:
                plan.after[name] += planner.facts[case.host].voxels(name)
    _add_notes(plan, wanted)


def _add_notes(plan: Plan, wanted: int) -> None:
    made = len(plan.placebos)
    if made < wanted:
        plan.notes.append(
            f"placebo: {made} of {wanted} cases could be planned; for the others no outline fits into normal lung"
        )
    if made and plan.targets:
        reached = ", ".join(f"{name} {share:.1%}" for name, share in shares(plan.after).items() if name in plan.targets)
        plan.notes.append(
            f"placebo: the planned shares count the {made} placebo cases, which hold no new lesion ({reached})"
        )


def lung_piece(lesion: Lesion, source: LungSource) -> Lesion:
    """Normal lung in the outline of a lesion, as if it were a lesion of the case that it is cut from.

    Its mask is the outline in the voxels of that case, scaled; it is the lesion's own where both cases have the same
    spacing and the scale is 1.
    """
    mask = warp(lesion.mask, Transform(scale=source.scale), spacing_ratio(lesion, source.spacing, source.slices)).mask
    return replace(lesion, case=source.case, mask=mask, spacing=source.spacing, start=source.start, source=None)


@dataclass(frozen=True)
class _PlaceboPlanner:
    """Finds a host, places and normal lung for one placebo case at a time.

    The parameters are those of ``add_placebos``; ``follows``: outlines lie where the lesions of their model lie;
    ``hosts``: possible hosts, if those of placebo cases are to be like their model's.
    """

    plan: Plan
    cases: Sequence[CaseFacts]
    lesions: dict[str, list[Lesion]]
    roles: LabelRoles
    read_label: Callable[[str], np.ndarray]
    follows: bool
    hosts: Hosts | None

    @property
    def facts(self) -> dict[str, CaseFacts]:
        """Facts of the training cases."""
        return {case.identifier: case for case in self.cases}

    def placebo(self, model: PlannedCase, rng: np.random.Generator) -> PlannedCase | None:
        """A placebo case with the outlines of ``model``, in the host into which most of them fit; None without any."""
        best: tuple[str, list[Operation], tuple[int, ...]] | None = None
        for host in self._hosts(model, rng):
            operations, slices = self._fill(model, host, rng)
            if operations and (best is None or len(operations) > len(best[1])):
                best = host.identifier, operations, slices
            if len(operations) == len(_outlines(model)):
                break
        if best is None:
            return None
        name, operations, slices = best
        index = len(self.plan.cases)
        if self.hosts is not None:
            self.hosts.use(self.facts[name])
        return PlannedCase(index, name, tuple(operations), slices, int(rng.integers(2**31)), placebo=True)

    def _hosts(self, model: PlannedCase, rng: np.random.Generator) -> list[CaseFacts]:
        """Hosts to try in turn: those of other cases of the plan, so that a host tells no class; then any other.

        Where hosts are to be alike, those that hold the same pathologies as the model's host come first among them.
        """
        planned = {case.host for case in self.plan.with_lesions}
        if self.hosts is not None:
            like = profile(self.facts[model.host], self.roles)
            ranked = list(self.hosts.ranked(like, self.roles.pathologies, rng))
            order = [case for case in ranked if case.identifier != model.host] or ranked
        else:
            usable = usable_hosts(self.cases, self.roles)
            usable = [case for case in usable if case.identifier != model.host] or usable
            order = [usable[i] for i in rng.permutation(len(usable))]
        return sorted(order, key=lambda case: case.identifier not in planned)[:_HOSTS]

    def _fill(
        self, model: PlannedCase, host: CaseFacts, rng: np.random.Generator
    ) -> tuple[list[Operation], tuple[int, ...]]:
        """The operations of ``model`` that fit into a host, in at most as many slices, and the slices."""
        label = self.read_label(host.identifier)
        free, lung = self.roles.is_normal(label), Lung(label, self.roles, host.spacing, host.counts)
        normal, operations = free.copy(), []
        for of_model in _outlines(model):
            site = self._site(model, of_model) if self.follows else None
            if site is not None and lung.side_at(site.height, site.side) != site.side:  # only the other lung is there
                of_model = _mirrored(of_model)
            find = self._finder(site, lung, rng)
            operation = self._place(of_model, host, free, normal, len(model.slices), rng, find)
            if operation is not None:
                operations.append(operation)
        return operations, tuple(int(z) for z in np.flatnonzero((free != normal).any((1, 2))))

    def _place(
        self,
        model: Operation,
        host: CaseFacts,
        free: np.ndarray,
        normal: np.ndarray,
        slices: int,
        rng: np.random.Generator,
        find: Callable[[np.ndarray, np.ndarray], Place | None],
    ) -> Operation | None:
        """Finds normal lung for an operation's outline and a place in the host, which is taken from ``free``.

        Where the lesion fits into normal lung in no case, the planned outline may, if it is smaller.
        """
        lesion, transform = real_lesion(model, self.lesions), model.transform
        whole = next(self._sources(lesion, host, rng), None)
        touched = np.flatnonzero((free != normal).any((1, 2)))
        for _ in range(4):
            source, moved = whole, transform
            if source is None and transform.scale < 1:
                source = next(self._sources(lesion, host, rng, transform.scale), None)
                moved = replace(transform, scale=1.0)
            if source is not None:
                piece = lung_piece(lesion, source)
                place, mask = self._fit(piece, moved, host, free, touched, slices, find)
                if place is not None:
                    window = free[window_at(place, mask.shape)]
                    voxels = int((mask & window).sum())
                    window[mask] = False
                    return replace(model, transform=moved, place=place, voxels=voxels, lung=source)
            transform = replace(transform, scale=transform.scale * _SHRINK, dilation=0)
        return None

    @staticmethod
    def _fit(
        piece: Lesion,
        transform: Transform,
        host: CaseFacts,
        free: np.ndarray,
        touched: np.ndarray,
        slices: int,
        find: Callable[[np.ndarray, np.ndarray], Place | None],
    ) -> tuple[Place | None, np.ndarray]:
        """A place for a piece of normal lung in a host, None if there is none in so many slices; and its mask there."""
        allowed = free
        if piece.case == host.identifier:  # lung must not be pasted over itself
            allowed = free.copy()
            allowed[piece.box] = False
        ratio = spacing_ratio(piece, host.spacing, host.shape[0])
        fits = not cannot_fit(piece.mask, transform, ratio, host.shape, host.spacing)
        mask = warp(piece.mask, transform, ratio, host.spacing).mask if fits else np.zeros((0, 0, 0), bool)
        for choice in _within(allowed, touched, slices) if mask.any() else ():
            place = find(mask, choice)
            if place is not None and len({*touched, *range(place[0], place[0] + len(mask))}) <= slices:
                return place, mask
        return None, mask

    def _finder(
        self, site: Site | None, lung: Lung, rng: np.random.Generator
    ) -> Callable[[np.ndarray, np.ndarray], Place | None]:
        """(mask, free voxels) → a place in a host's lung: the one most like ``site``, or any without one."""

        def find(mask: np.ndarray, free: np.ndarray) -> Place | None:
            if site is None:
                return find_place(mask, free, rng)
            found = most_alike(mask, site, lung, free, np.asarray(free.any((1, 2))))
            return None if found is None or found.cost > FAR else found.place

        return find

    def _site(self, model: PlannedCase, operation: Operation) -> Site:
        """Where a planned lesion lies in its host's lung."""
        host, label = self.facts[model.host], self.read_label(model.host)
        lesion = real_lesion(operation, self.lesions)
        ratio = spacing_ratio(lesion, host.spacing, host.shape[0])
        mask = warp(lesion.mask, operation.transform, ratio, host.spacing).mask
        lung = Lung(label, self.roles, host.spacing, host.counts)
        mask, place = inside_image(mask, operation.place, label.shape)
        inside = mask & lung.is_lung[label[window_at(place, mask.shape)]]
        return lung.site(inside if inside.any() else mask, place)

    def _sources(
        self, lesion: Lesion, host: CaseFacts, rng: np.random.Generator, scale: float = 1.0
    ) -> Iterator[LungSource]:
        """Places where the scaled outline of a lesion lies in normal lung: in other cases first, then in the host."""
        others = [case for case in self.cases if case is not host]
        drawn = [others[i] for i in rng.permutation(len(others))]
        least = scale**2 * lesion.voxels / len(lesion.mask) / 2  # normal lung that some slice must have; a quick test
        drawn = [case for case in drawn if max(self.roles.normal_voxels(case.counts), default=0) >= least]
        for case in [*drawn[:_SOURCES], host]:
            source = LungSource(case.identifier, (0, 0, 0), case.spacing, case.shape[0], scale)
            outline = lung_piece(lesion, source).mask
            normal = self.roles.is_normal(self.read_label(case.identifier))
            place = find_place(outline, normal, rng) if outline.any() else None
            if place is not None:
                z, y, x = map(float, case.spacing)
                yield replace(source, start=place, spacing=(z, y, x))


def _outlines(model: PlannedCase) -> list[Operation]:
    """The operations whose outlines a placebo case has: a lesion and what surrounds it are one."""
    inner = {(op.around, op.donor, op.component) for op in model.operations if op.around}
    return [op for op in model.operations if (op.pathology, op.donor, op.component) not in inner or op.around]


def _mirrored(operation: Operation) -> Operation:
    return replace(operation, transform=replace(operation.transform, mirror=not operation.transform.mirror))


def _within(free: np.ndarray, touched: np.ndarray, slices: int) -> Iterator[np.ndarray]:
    """Free voxels in slices that are changed anyway, then also in as many more around them as the bound allows."""
    if not len(touched):
        yield free
        return
    z, spare = np.arange(len(free)), slices - len(touched)
    yield free & np.isin(z, touched)[:, None, None]
    if spare > 0:
        yield free & ((z >= touched[0] - spare) & (z <= touched[-1] + spare))[:, None, None]
