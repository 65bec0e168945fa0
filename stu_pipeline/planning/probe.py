"""Measure training steps of a plan before it is written, and put what was measured into its forecast."""

from __future__ import annotations

from stu_pipeline.errors import MemoryLimitError
from stu_pipeline.log import Listener, Notice
from stu_pipeline.planfile import parse_plan
from stu_pipeline.planning.choose import PlanInput, Proposal, apply_probe


def measure_proposal(proposal: Proposal, given: PlanInput, *, listen: Listener) -> Proposal:
    """Run a few training steps of the default configuration on this machine's device.

    Raises:
        MemoryLimitError: they need more memory than the device has.
    """
    from stu_pipeline.nnunet.probe import probe_configuration

    name = proposal.default_configuration
    result = probe_configuration(parse_plan(proposal.raw), name, dataset_json=given.dataset_json.engine_description)
    if result.is_out_of_memory or result.step_s is None:
        raise MemoryLimitError(
            f"a training step of {name} does not fit {result.device_name}: {result.note}",
            hint="plan for less with --gpu-memory, or take a smaller --scale",
        )
    listen(Notice(text=f"probed {name} on {result.device_name} in {result.precision}: {result.note}"))
    # On a CPU the peak is the growth of this process, which says nothing about a GPU.
    return apply_probe(
        proposal,
        name,
        peak_gib=result.peak_gib if result.tensors_gib is not None else None,
        step_s=result.step_s,
        device_name=result.device_name,
    )
