"""Plans the synthetic cases of a fold from the deficits of its class shares (paper, section 2.3); masks only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from nnunet_difflung.config import BalanceConfig
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.lesions.contact import LungContact
from nnunet_difflung.lesions.following import Filling, Follower
from nnunet_difflung.lesions.hosts import MIN_HOST, Hosts, Model, note_unlike, profile, usable_hosts
from nnunet_difflung.lesions.likeness import Sample, add_planned, compare, real_sample
from nnunet_difflung.lesions.lung import Lung
from nnunet_difflung.lesions.masks import (
    Lesion,
    cannot_fit,
    draw_transform,
    find_lesions,
    paste,
    spacing_ratio,
    warp,
    window_at,
)
from nnunet_difflung.lesions.placement import find_place
from nnunet_difflung.lesions.plan import Operation, Pasted, Plan, PlannedCase, shares
from nnunet_difflung.lesions.surroundings import find_surroundings, share_of_border
from nnunet_difflung.lesions.targets import NO_ROOM, TOO_DEEP, note_unmet, target_shares
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.runtime.progress import Tell, nobody

_MAX_FILL = 0.5  # largest share of the normal lung of a host that lesions may cover
_MAX_LESIONS = 24  # in a slice of a host with lung
_SHRINK = 0.8  # scale factor for a lesion that fits nowhere; applied up to three times
_IDLE_HOSTS = 30  # number of consecutive hosts without a fitting lesion after which a class is given up
_NEARLY_ALL = 0.9  # share of the slices that may be painted; what is missing then is due to their number
_MOST_IDLE_HOSTS = 300  # the same where places follow real ones, since most hosts may have enough of a class


def collect_lesions(
    identifiers: Sequence[str],
    facts: dict[str, CaseFacts],
    roles: LabelRoles,
    read_label: Callable[[str], np.ndarray],
    of_cases: dict[str, list[Lesion]] | None = None,
    contact: LungContact | None = None,
    tell: Tell = nobody,
) -> dict[str, list[Lesion]]:
    """The lesions of every pathology in the given training cases.

    Args:
        identifiers: ids of the training cases.
        facts: case id → facts, for at least these cases.
        roles: of the labels.
        read_label: case id → (z, y, x) label values.
        of_cases: case id → lesions that are known already, for example from another fold; missing cases are added.
        contact: counts what the labels of the same cases border on.
        tell: gets the share of the cases that is done.

    Returns:
        pathology → lesions, sorted by case and component.
    """
    of_cases = {} if of_cases is None else of_cases
    for number, identifier in enumerate(sorted(identifiers)):
        tell(number / len(identifiers))
        case, counted = facts[identifier], contact is None or contact.has(identifier)
        if not any(map(case.voxels, roles.pathologies)):
            of_cases[identifier] = []
        elif not counted or identifier not in of_cases:
            label = read_label(identifier)
            if contact is not None:
                contact.add(identifier, label, case.counts)
            if identifier not in of_cases:
                of_cases[identifier] = lesions_of(case, label, roles)
    lesions = [lesion for identifier in sorted(identifiers) for lesion in of_cases[identifier]]
    return {name: [lesion for lesion in lesions if lesion.pathology == name] for name in roles.pathologies}


def lesions_of(case: CaseFacts, label: np.ndarray, roles: LabelRoles) -> list[Lesion]:
    """The lesions of a case by pathology and component, from its (z, y, x) label values."""
    lung, lesions = Lung(label, roles, case.spacing, case.counts), []
    for name in filter(case.voxels, roles.pathologies):
        for lesion in find_lesions(label, roles.values[name], case.identifier, name, case.spacing):
            site, within = lung.site(lesion.mask, lesion.start), share_of_border(label, lesion, roles)
            lesion = replace(lesion, site=site, within=within)
            lesions.append(replace(lesion, surroundings=find_surroundings(label, lesion, roles)))
    return lesions


def _chances(lesions: list[Lesion]) -> np.ndarray:
    """Cumulative probabilities of drawing each lesion, which are proportional to the square root of its size."""
    weights = np.sqrt([lesion.voxels for lesion in lesions])
    total = np.cumsum(weights / max(weights.sum(), 1.0))
    return total / total[-1] if len(total) else total


class _Planner:
    """The state of the balancing loop."""

    def __init__(
        self,
        cases: Sequence[CaseFacts],
        lesions: dict[str, list[Lesion]],
        roles: LabelRoles,
        config: BalanceConfig,
        fold: int | str,
    ):
        self.lesions, self.roles, self.config = lesions, roles, config
        self.key = [config.seed, 1_000_003 if fold == "all" else int(fold)]
        self.counts = {name: sum(case.voxels(name) for case in cases) for name in roles.lung}
        self.mean_lung = sum(self.counts.values()) / max(1, len(cases))
        self.targets = target_shares(cases, lesions, roles, config)
        self.chances = {name: _chances(of_class) for name, of_class in lesions.items()}
        self.follower = Follower(lesions, roles) if config.placement == "real" else None
        self.usable = usable_hosts(cases, roles)
        self.order = np.random.default_rng(self.key).permutation(len(self.usable))
        self.hosts = Hosts(self.usable, roles) if config.hosts == "alike" else None
        self.profiles = {case.identifier: profile(case, roles) for case in cases}
        self.holders = {name: sorted({lesion.case for lesion in of_class}) for name, of_class in lesions.items()}
        self.allowed = set(roles.pathologies)
        self.given_up: dict[str, str] = {}  # pathologies of which no host takes a lesion any more → why
        self.unlike, self.painted = 0, 0  # planned cases unlike real ones; slices of all planned cases
        self.too_deep = 0  # hosts since the last case into which lesions would fit if more slices were left
        self.in_vain = 0  # hosts since the last case that lack lesions, but into which none was pasted
        self.pasted: list[Pasted] = []
        slices = sum(case.lung_slices(roles) for case in cases)
        self.max_slices = config.max_synthetic if config.max_synthetic is not None else int(config.max_ratio * slices)

    def missing(self, counts: dict[str, int]) -> list[str]:
        """The pathologies below their target shares, the one that gets the next lesion first.

        That is the one furthest below, relative to its target, or the least frequent one (``BalanceConfig.order``);
        those that were given up come last, so that they do not keep hosts from the others.
        """
        share = shares(counts)
        deficits = {name: 1 - share[name] / target for name, target in self.targets.items() if share[name] < target}
        rank = share if self.config.order == "frequency" else {name: -deficit for name, deficit in deficits.items()}
        return sorted(deficits, key=lambda name: (name in self.given_up, rank[name]))

    def is_finished(self) -> bool:
        """Whether every pathology has reached its target or was given up."""
        return all(name in self.given_up for name in self.missing(self.counts))

    def share_done(self, plan: Plan) -> float:
        """The share of the plan that is made: of the slices, or of the targets where these are nearer."""
        before, now = (self._largest_deficit(counts) for counts in (plan.before, self.counts))
        return max(self.painted / max(1, self.max_slices), 1 - now / before if before else 1.0)

    def _largest_deficit(self, counts: dict[str, int]) -> float:
        """How far below its target, relative to it, the pathology is that gets the next lesion."""
        share = shares(counts)
        open_ = [
            1 - share[name] / target for name, target in self.targets.items() if target and name not in self.given_up
        ]
        return max([0.0, *open_])

    def give_up(self) -> None:
        """Gives up the pathology that would get the next lesion, since no host has taken one for long."""
        for_slices = "" if self.painted >= _NEARLY_ALL * self.max_slices else NO_ROOM
        self.given_up[self.missing(self.counts)[0]] = TOO_DEEP if self.too_deep else for_slices

    def next_class(self, counts: dict[str, int]) -> str | None:
        """The pathology that gets the next lesion; None if all targets are met.

        Where hosts follow a real case, only those that this case has (``allowed``).
        """
        return next((name for name in self.missing(counts) if name in self.allowed), None)

    def quota(self, slices_left: int, per_case: float) -> int:
        """Voxels of pathology to paste into the next host, so that the targets are met within the bound on slices.

        Each of the n remaining cases adds mean_lung voxels: target · (lung + n · mean_lung) = present + n · quota.

        Args:
            slices_left: number of slices that may still be painted.
            per_case: mean number of painted slices in a case.
        """
        cases_left = max(1.0, slices_left / max(per_case, 1e-9))
        lung = sum(self.counts.values()) + cases_left * self.mean_lung
        missing = sum(max(0.0, target * lung - self.counts[name]) for name, target in self.targets.items())
        return int(np.ceil(1.05 * missing / cases_left))  # lesions are cut off at the pleura, so aim a little higher

    def patience(self, hosts: int) -> int:
        """Number of consecutive hosts, of ``hosts`` in all, without a new lesion after which planning stops."""
        return _IDLE_HOSTS if self.follower is None else max(_IDLE_HOSTS, min(hosts, _MOST_IDLE_HOSTS))

    def host(self, index: int, rng: np.random.Generator) -> tuple[CaseFacts | None, Model | None]:
        """The next host, and the real case that it suits; hosts that follow no real case take turns.

        There is no host if none has fewer lesions of a class than the real case that was drawn.
        """
        if self.hosts is None:
            return self.usable[self.order[index % len(self.order)]], None
        name, *others = self.missing(self.counts)
        model = Model(name, self.holders[name][rng.integers(len(self.holders[name]))])
        counted = [other for other in self.roles.pathologies if other != name]
        painted = others if self.follower is not None else []
        for host in self.hosts.ranked(self.profiles[model.case], counted, rng, painted):
            alone = self.follower is None and len(self.usable) == 1
            if (host.identifier != model.case or alone) and (
                self.follower is None or self.follower.takes(host.identifier, model)
            ):
                self.hosts.use(host)
                return host, model
        return None, model

    def count(self, label: np.ndarray, model: Model | None) -> None:
        """Adds the label values of a planned case."""
        voxels = {name: int((label == self.roles.values[name]).sum()) for name in self.roles.lung}
        for name, number in voxels.items():
            self.counts[name] += number
        if model is not None:
            held = zip(self.roles.pathologies, self.profiles[model.case], strict=True)
            self.unlike += any((voxels[n] > 0) != (share > 0) for n, share in held if n != model.pathology)

    def crowds(self, plan: Plan) -> bool:
        """Lets hosts have more lesions than real cases, and notes it, if no host has fewer; whether it is so now."""
        if self.follower is None or self.follower.crowding or self.in_vain:
            return False
        self.follower.crowding = True
        plan.notes.append("no case has fewer lesions than real cases with these classes, so synthetic cases have more")
        return True

    def operations(
        self,
        host: CaseFacts,
        label: np.ndarray,
        lung: Lung,
        plan: Plan,
        rng: np.random.Generator,
        model: Model | None = None,
    ) -> list[Operation]:
        """Pastes the lesions of the next planned case into ``label`` (in place); ``pasted`` then has their voxels."""
        slices = self.max_slices - self.painted
        if self.follower is not None:
            counts = {name: self.counts[name] + host.voxels(name) for name in self.counts}
            allowed = [name for name, target in self.targets.items() if target > 0]
            filling = Filling(host, label, lung, self.roles.is_normal(label), slices, counts, allowed)
            self.follower.fill(filling, self.missing, rng, model)
            self.pasted = filling.pasted
            self.too_deep += filling.full and not filling.operations
            self.in_vain += filling.left_out and not filling.operations
            return filling.operations
        self.pasted = []
        quota = self.quota(slices, self.painted / len(plan.cases) if plan.cases else 1)
        if model is not None:
            held = zip(self.roles.pathologies, self.profiles[model.case], strict=True)
            self.allowed = {name for name, share in held if share > 0}
        return self.fill(host, label, quota, slices, rng)

    def add_case(
        self, plan: Plan, index: int, read_label: Callable[[str], np.ndarray], samples: dict[str, Sample]
    ) -> bool:
        """Adds the case of the next host to the plan and its lesions to ``samples``, unless nothing can be painted.

        Args:
            plan: what is planned so far.
            index: number of hosts that were tried before.
            read_label: case id → (z, y, x) label values.
            samples: pathology → planned lesions.
        """
        rng = np.random.default_rng([*self.key, index])
        host, model = self.host(index, rng)
        if host is None:
            return False
        before = read_label(host.identifier)
        label, lung = before.copy(), Lung(before, self.roles, host.spacing, host.counts)
        operations = self.operations(host, label, lung, plan, rng, model)
        touched = tuple(int(z) for z in np.flatnonzero((label != before).any((1, 2))))
        if not touched or self.painted + len(touched) > plan.max_slices:
            return False
        self.painted += len(touched)
        self.too_deep = self.in_vain = 0
        seed = int(rng.integers(2**31))
        plan.cases.append(PlannedCase(len(plan.cases), host.identifier, tuple(operations), touched, seed))
        self.count(label, model)
        add_planned(samples, self.pasted, label, lung, self.roles)
        return True

    def fill(
        self, host: CaseFacts, label: np.ndarray, quota: int, slices: int, rng: np.random.Generator
    ) -> list[Operation]:
        """Pastes lesions into ``label`` (in place) until the quota is reached or no further lesion fits.

        At most ``slices`` slices are changed; lesions are placed in slices that are changed anyway, if they fit there.
        """
        bound = min(quota, int(_MAX_FILL * sum(self.roles.normal_voxels(host.counts))))
        most = _MAX_LESIONS * host.lung_slices(self.roles)
        operations: list[Operation] = []
        added, failures = 0, 0
        touched: set[int] = set()
        counts = {name: self.counts[name] + host.voxels(name) for name in self.counts}
        while added < bound and len(operations) < most and failures < 3:
            name = self.next_class(counts)
            if name is None:
                break
            free = self.free_slices(self.roles.is_normal(label), touched, slices)
            operation, touched = self.try_lesion(
                host, label, name, int(1.5 * (bound - added)) + 4, free, touched, slices, rng
            )
            if operation is None:
                failures += 1
                continue
            operations.append(operation)
            added += operation.voxels
            counts[name] += operation.voxels
            counts[self.roles.normal[0]] -= operation.voxels  # of whichever: shares depend on the sum alone
        return operations

    @staticmethod
    def free_slices(normal_lung: np.ndarray, touched: set[int], slices: int) -> list[np.ndarray]:
        """Masks of normal lung in which to try to place a lesion: first in changed slices, then also near them."""
        if len(normal_lung) == 1:
            return [normal_lung]
        z = np.arange(len(normal_lung))
        first, last = (min(touched), max(touched)) if touched else (0, len(normal_lung) - 1)
        spare = slices - len(touched)
        near = (z >= first - spare) & (z <= last + spare) if touched else np.ones(len(normal_lung), bool)
        inside = np.isin(z, sorted(touched))
        choices = []
        if touched:
            choices.append(inside)
        if spare > 0:
            choices.append(near)
        return [normal_lung & choice[:, None, None] for choice in choices]

    def try_lesion(
        self,
        host: CaseFacts,
        label: np.ndarray,
        name: str,
        largest: int,
        free: list[np.ndarray],
        touched: set[int],
        slices: int,
        rng: np.random.Generator,
    ) -> tuple[Operation | None, set[int]]:
        """Draws a lesion of a pathology, scales it to the quota, and shrinks it up to three times until it fits.

        Returns:
            The operation (None if the lesion does not fit), and the slices changed so far, at most ``slices``.
        """
        lesion = self.lesions[name][int(self.chances[name].searchsorted(rng.random(), side="right"))]
        ratio = spacing_ratio(lesion, host.spacing, host.shape[0])
        size = lesion.voxels * ratio[1] * ratio[2] * max(ratio[0], 1 / len(lesion.mask))
        transform = draw_transform(rng)
        fitting = float((max(largest, 8) / size) ** (1 / (3 if len(lesion.mask) > 1 else 2)))
        transform = replace(transform, scale=min(transform.scale, fitting))
        for _ in range(4):
            fits = not cannot_fit(lesion.mask, transform, ratio, label.shape, host.spacing)
            mask = warp(lesion.mask, transform, ratio, host.spacing).mask if fits else np.zeros((0, 0, 0), bool)
            for choice in free if mask.any() else ():
                place = find_place(mask, choice, rng)
                after = touched | set(range(place[0], place[0] + len(mask))) if place else touched
                if place is not None and len(after) <= slices:
                    changed = mask & self.roles.is_normal(label[window_at(place, mask.shape)])
                    self.pasted.append(Pasted(name, changed, place))
                    voxels = paste(label, mask, place, self.roles.values[name], self.roles)
                    return Operation(name, lesion.case, lesion.component, transform, place, voxels), after
            transform = replace(transform, scale=transform.scale * _SHRINK, dilation=0)
        return None, touched


def make_plan(
    cases: Sequence[CaseFacts],
    lesions: dict[str, list[Lesion]],
    roles: LabelRoles,
    config: BalanceConfig,
    fold: int | str,
    read_label: Callable[[str], np.ndarray],
    tell: Tell = nobody,
) -> Plan:
    """Plans synthetic cases until every target share is met or the bound on painted slices is reached.

    Args:
        cases: training cases of the fold, all of which may become hosts.
        lesions: pathology → lesions of the same cases.
        roles: of the labels.
        config: target shares, bound and seed.
        fold: seeds the plan together with the seed of ``config``.
        read_label: case id → (z, y, x) label values.
        tell: gets the share of the plan that is made.
    """
    planner = _Planner(cases, lesions, roles, config, fold)
    plan = Plan([], planner.targets, dict(planner.counts), planner.counts, planner.max_slices)
    plan.notes += [
        f"{name}: the training cases of fold {fold} have no lesion of this class, so none can be added"
        for name in roles.pathologies
        if not lesions[name]
    ]
    samples: dict[str, Sample] = {}
    index, idle = 0, 0
    while planner.usable and not planner.is_finished() and planner.painted < plan.max_slices:
        idle = 0 if planner.add_case(plan, index, read_label, samples) else idle + 1
        index += 1
        tell(planner.share_done(plan))
        if idle >= planner.patience(len(planner.usable)):
            if not planner.crowds(plan):
                planner.give_up()
            idle = planner.too_deep = planner.in_vain = 0
    if planner.usable:
        note_unmet(plan, config, planner.given_up)
    else:
        plan.notes.append(
            f"no training case of fold {fold} has {MIN_HOST} voxels of normal lung, so none can be a host, and nothing "
            f"is planned"
        )
    note_unlike(plan, planner.unlike)
    facts = {case.identifier: case for case in cases}
    for name, sample in samples.items():
        plan.likeness[name] = compare(sample, real_sample(lesions[name], facts, roles))
    return plan
