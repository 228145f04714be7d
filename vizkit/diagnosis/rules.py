"""All rules, in the order in which they are believed."""

from collections.abc import Sequence

from vizkit.diagnosis import course_rules, data_rules, loop_rules, net_rules
from vizkit.diagnosis.findings import Finding, Rule, Severity
from vizkit.diagnosis.observed import Observed
from vizkit.diagnosis.trying import Tried

ALL: tuple[Rule, ...] = (
    *data_rules.CERTAIN,
    *loop_rules.RULES,
    *net_rules.CERTAIN,
    *data_rules.LIKELY,
    *net_rules.LIKELY,
    *course_rules.RULES,
)
"""What is certain before what is likely, causes before what follows from them."""


ORDER: Sequence[Severity] = ("fault", "warning", "note")


def findings(seen: Observed, tried: Tried) -> list[Finding]:
    """All that is wrong, the likeliest cause first, without what follows from a finding before it."""
    found = [made for rule in ALL if (made := rule(seen, tried)) is not None]
    kept: list[Finding] = []
    for finding in sorted(found, key=lambda f: ORDER.index(f.severity)):
        if not any(finding.code in cause.explains for cause in kept):
            kept.append(finding)
    return kept
