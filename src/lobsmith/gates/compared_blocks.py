"""From the answers of two versions to blocks that can be bet on."""

from lobsmith.gates.answers import Compared
from lobsmith.gates.live_rows import check_same_rows, judged_horizons, losses
from lobsmith.gates.paired_blocks import BlockRule, Blocks, paired_blocks
from lobsmith.gates.sequential import Evidence, predictable_bounds, weigh
from lobsmith.params import PairedParams


def compared_blocks(
    compared: Compared, paired: PairedParams, rule: BlockRule | None = None, *, margin: float = 0.0
) -> tuple[Blocks, int]:
    """Return the blocks of the first version's loss less the second's, and how many rows count.

    Args:
        compared: rows that both were asked about, in the order of time.
        paired: how losses are compared.
        rule: length of blocks where it was measured before; None measures it on the first rows, which are not judged.
        margin: added to each difference, nats.

    Raises:
        GateError: the answers are not to the same rows, or not in the order of time.
    """
    check_same_rows(compared)
    first, second = compared.first, compared.second
    horizons = judged_horizons(first.horizons_ms, paired.longest_ms)
    (loss_first, known_first), (loss_second, known_second) = losses(first, horizons), losses(second, horizons)
    known = known_first & known_second
    blocks = paired_blocks(
        loss_first - loss_second + margin,
        known,
        first.time_ns,
        first.segment,
        horizon_ms=max(first.horizons_ms[h] for h in horizons),
        params=paired,
        rule=None if rule is None else rule._replace(measured=rule.measured + margin),
    )
    return blocks, int(known.sum())


def weigh_blocks(blocks: Blocks, clip: float, alpha: float) -> Evidence:
    """Bet on the differences of blocks."""
    measured = blocks.rule.measured if blocks.rule else blocks.differences[:0]
    return weigh(blocks.differences, predictable_bounds(blocks.differences, measured, clip), alpha)
