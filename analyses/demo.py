"""What ``rankscope demo`` finds, as the README shows it: LoRA and prefix-then-LoRA against the embedded checkpoint.

One training each, so the intervals are those of the samples alone; what differs between trainings is the question of
``claim.py``. Run ``python analyses/demo.py``: a minute or two on two cores.
"""

# %%
from __future__ import annotations

import argparse
import json
from pathlib import Path

from rankscope.demo import Demo, run_demo
from rankscope.plots import save
from rankscope.tuning.record import versions

SHOWN = ("participation-ratio", "pt-peft", "overlap", "recoverability", "drift")
"""The measures whose numbers lie beside the figure."""
UNTOUCHED = "vision.final"
"""A site that neither tuning reaches."""


def told(result: Demo) -> dict[str, object]:
    """The numbers behind the figure."""
    records = [record for record in result.contrast.to_records() if record["measure"] in SHOWN]
    return {"versions": versions(), "held_out_loss": result.losses, "records": records}


def check(result: Demo) -> None:
    """What must be so whatever comes out: both tunings learn, and neither reaches the vision tower."""
    base, *tuned = result.losses.values()
    assert all(loss < base for loss in tuned)
    untouched = [r for r in result.contrast.records if r.site == UNTOUCHED and r.measure in SHOWN]
    assert untouched
    assert all(abs(r.value) < 1e-6 for r in untouched)


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build") / "demo")
    parser.add_argument("--out", type=Path, default=Path("figures") / "demo")
    asked = parser.parse_args()
    found = run_demo(asked.folder)
    check(found)
    save(found.contrast.plot(), asked.out, kinds=["svg"])
    asked.out.with_suffix(".json").write_text(json.dumps(told(found), indent=1) + "\n")
